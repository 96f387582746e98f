//! Floor 7: the demo's two models and the rows it sends, as scikit-learn fitted and split them. `data/fit.py`
//! makes the files; a test here holds every prediction against scikit-learn's own, because a comparison of two
//! models is worth nothing where one of them is not the model it claims to be.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// How many pixels an image has: 8 × 8.
pub(super) const PIXELS: usize = 64;

/// How many digits there are to choose from.
pub(super) const DIGITS: usize = 10;

/// A fitted classifier of handwritten digits: dense layers with a ReLU between, a softmax at the end. With a
/// single layer that is multinomial logistic regression.
#[derive(Debug)]
pub(super) struct Model {
    /// Its name in the routing file and in its own answers.
    pub(super) name: &'static str,
    /// Its version in its own answers.
    pub(super) version: &'static str,
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Coefficients {
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    /// For each output, one weight for each input.
    weights: Vec<Vec<f64>>,
    /// One for each output.
    bias: Vec<f64>,
}

/// What a model says about one image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prediction {
    /// The most probable digit.
    pub(super) digit: usize,
    /// How probable each digit is; they sum to 1.
    pub(super) probabilities: [f64; DIGITS],
}

/// One image that neither model has seen while it was fitted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The digit that the writer meant: the true label.
    pub(super) digit: u8,
    /// Row by row from the top left, 0 (paper) to 16 (ink).
    pub(super) pixels: [u8; PIXELS],
}

impl Row {
    /// The sum of its pixels: a bold hand against a faint one.
    pub(super) fn ink(&self) -> u32 {
        self.pixels.iter().map(|&pixel| u32::from(pixel)).sum()
    }

    /// The pixels as a model takes them.
    pub(super) fn features(&self) -> [f64; PIXELS] {
        self.pixels.map(f64::from)
    }
}

/// The model in prod: logistic regression.
pub(super) fn linear() -> Result<Model> {
    Model::read("digits-linear", "1", include_str!("data/linear.json"))
}

/// The candidate: a network with one hidden layer of 32.
pub(super) fn network() -> Result<Model> {
    Model::read("digits-network", "1", include_str!("data/network.json"))
}

/// Every test row, in the order of the file.
pub(super) fn rows() -> Result<Vec<Row>> {
    include_str!("data/rows.csv").lines().skip(1).map(row).collect()
}

/// Reads `DIGIT,PIXELS`, one character a pixel in base 17.
fn row(line: &str) -> Result<Row> {
    let (digit, drawn) = line.split_once(',').context("a row of the demo's data has no comma")?;
    let pixels: Vec<u8> = drawn
        .chars()
        .map(|c| c.to_digit(17).and_then(|pixel| u8::try_from(pixel).ok()))
        .collect::<Option<_>>()
        .context("a row of the demo's data holds what is not a pixel")?;
    let Ok(pixels) = <[u8; PIXELS]>::try_from(pixels) else {
        bail!("a row of the demo's data has not {PIXELS} pixels")
    };
    Ok(Row { digit: digit.parse().context("a row of the demo's data has no digit")?, pixels })
}

impl Model {
    fn read(name: &'static str, version: &'static str, json: &str) -> Result<Self> {
        let Coefficients { layers } =
            serde_json::from_str(json).with_context(|| format!("the coefficients of {name} cannot be read"))?;
        let mut width = PIXELS;
        for layer in &layers {
            let fits = layer.bias.len() == layer.weights.len() && layer.weights.iter().all(|w| w.len() == width);
            ensure!(fits, "the coefficients of {name} do not fit together");
            width = layer.bias.len();
        }
        ensure!(width == DIGITS, "{name} does not end in {DIGITS} digits");
        Ok(Self { name, version, layers })
    }

    /// What the model says about one image.
    pub(super) fn predict(&self, features: &[f64; PIXELS]) -> Prediction {
        let mut values = features.to_vec();
        for (depth, layer) in self.layers.iter().enumerate() {
            if depth > 0 {
                values.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            values = layer.apply(&values);
        }
        softmax(&values)
    }
}

impl Layer {
    fn apply(&self, inputs: &[f64]) -> Vec<f64> {
        let sum = |weights: &Vec<f64>| weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum::<f64>();
        self.weights.iter().zip(&self.bias).map(|(weights, bias)| sum(weights) + bias).collect()
    }
}

/// Turns scores into probabilities. The largest is subtracted first, so that no exponential overflows.
fn softmax(scores: &[f64]) -> Prediction {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probabilities = [0.0; DIGITS];
    for (probability, score) in probabilities.iter_mut().zip(scores) {
        *probability = (score - largest).exp();
    }
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|probability| *probability /= sum);
    // The first of equals, as NumPy's argmax has it.
    let digit = scores.iter().position(|&score| score == largest).unwrap_or(0);
    Prediction { digit, probabilities }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Expected {
        classes: String,
        probabilities_every: usize,
        probabilities: Vec<Vec<f64>>,
    }

    fn holds_against_scikit_learn(model: &Model, key: &str) {
        let mut all: std::collections::BTreeMap<String, Expected> =
            serde_json::from_str(include_str!("data/expected.json")).expect("JSON");
        let expected = all.remove(key).expect("the model's own predictions");
        let said: Vec<Prediction> = rows().expect("rows").iter().map(|row| model.predict(&row.features())).collect();

        let classes: String = said.iter().map(|prediction| prediction.digit.to_string()).collect();
        assert_eq!(classes, expected.classes);

        let sampled: Vec<&Prediction> = said.iter().step_by(expected.probabilities_every).collect();
        assert_eq!(sampled.len(), expected.probabilities.len());
        for (ours, theirs) in sampled.iter().zip(&expected.probabilities) {
            for (a, b) in ours.probabilities.iter().zip(theirs) {
                assert!((a - b).abs() <= 1e-9, "{a} is not scikit-learn's {b}");
            }
        }
    }

    #[test]
    fn the_linear_model_predicts_what_scikit_learn_predicts() {
        holds_against_scikit_learn(&linear().expect("coefficients"), "linear");
    }

    #[test]
    fn the_network_predicts_what_scikit_learn_predicts() {
        holds_against_scikit_learn(&network().expect("coefficients"), "network");
    }

    #[test]
    fn every_row_is_an_image_of_a_digit() {
        let rows = rows().expect("rows");
        assert_eq!(rows.len(), 1200);
        assert!(rows.iter().all(|row| row.digit < 10 && row.pixels.iter().all(|&pixel| pixel <= 16)));
        assert!(rows.iter().all(|row| row.ink() > 0));
    }

    #[test]
    fn damaged_data_is_an_error_that_says_what_is_wrong() {
        assert!(row("3").unwrap_err().to_string().contains("comma"));
        assert!(row("3,00").unwrap_err().to_string().contains("64 pixels"));
        assert!(row(&format!("3,{}", "x".repeat(64))).unwrap_err().to_string().contains("not a pixel"));
        let lopsided = r#"{"layers": [{"weights": [[1.0]], "bias": [0.0]}]}"#;
        assert!(Model::read("m", "1", lopsided).unwrap_err().to_string().contains("fit together"));
        assert!(Model::read("m", "1", r#"{"layers": []}"#).unwrap_err().to_string().contains("10 digits"));
    }
}
