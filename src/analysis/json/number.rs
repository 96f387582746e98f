//! Floor 2: what two number tokens mean to each other. Tokens are compared first, and as `f64` only where they
//! differ; where an `f64` cannot tell two numbers apart that their digits can (large integers, `1E400`), the digits
//! decide, so that two ids next to each other are never taken for one.

use crate::config::routing::Tolerance;

/// How two numbers relate, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// They are one number.
    Equal,
    /// They differ by no more than they may.
    Within,
    /// They differ.
    Differs,
}

/// A number: its token, and the value that this has as an `f64`, rounded and infinite beyond what one holds.
#[derive(Debug, Clone, Copy)]
pub struct Number<'t> {
    token: &'t str,
    value: f64,
}

impl<'t> Number<'t> {
    /// Reads a token.
    pub fn read(token: &'t str) -> Self {
        Self { token, value: token.parse().unwrap_or(f64::NAN) }
    }

    /// Its value, where that is finite.
    pub fn finite(self) -> Option<f64> {
        self.value.is_finite().then_some(self.value)
    }
}

/// How two numbers relate under a tolerance.
pub fn relate(a: Number, b: Number, tolerance: &Tolerance) -> Relation {
    if equal(a, b) {
        Relation::Equal
    } else if within(a, b, tolerance) {
        Relation::Within
    } else {
        Relation::Differs
    }
}

/// `candidate − prod`; none where that is not a finite number.
pub fn delta(prod: Number, candidate: Number) -> Option<f64> {
    let delta = integer_difference(candidate.token, prod.token).unwrap_or(candidate.value - prod.value);
    delta.is_finite().then_some(delta)
}

fn equal(a: Number, b: Number) -> bool {
    if a.token == b.token {
        return true;
    }
    if a.value != b.value {
        return false;
    }
    let told_apart = a.value.is_finite() && a.value != 0.0 && !(is_integer(a.token) && is_integer(b.token));
    told_apart || (is_decimal(a.token) && is_decimal(b.token) && Decimal::of(a.token) == Decimal::of(b.token))
}

/// Whether |a−b| ≤ max(absolute, relative × max(|a|, |b|)). A decimal such as 1.1 is rounded when it becomes an
/// `f64`, by at most half a unit in its last place: that much is allowed on top, so that 1.0 and 1.1 are within 0.1
/// as they are on paper.
fn within(a: Number, b: Number, tolerance: &Tolerance) -> bool {
    let larger = a.value.abs().max(b.value.abs());
    let bound = tolerance.absolute.max(tolerance.relative * larger);
    // An infinite bound would let infinity be near everything, and no bound means that only equal will do.
    if !(a.value.is_finite() && b.value.is_finite()) || bound <= 0.0 {
        return false;
    }
    match integer_difference(a.token, b.token) {
        Some(exact) => exact.abs() <= bound,
        None => (a.value - b.value).abs() <= bound + larger * f64::EPSILON,
    }
}

fn is_integer(token: &str) -> bool {
    token.strip_prefix('-').unwrap_or(token).bytes().all(|b| b.is_ascii_digit())
}

/// Not `NaN` or `Infinity`.
fn is_decimal(token: &str) -> bool {
    token.bytes().last().is_some_and(|b| b.is_ascii_digit())
}

/// `a − b` without rounding on the way, where both are integers of up to 38 digits.
fn integer_difference(a: &str, b: &str) -> Option<f64> {
    if !(is_integer(a) && is_integer(b)) {
        return None;
    }
    a.parse::<i128>().ok()?.checked_sub(b.parse().ok()?).map(|difference| difference as f64)
}

/// A number by its digits: `±digits × 10^exponent`, without zeros at either end.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn of(token: &str) -> Self {
        let negative = token.starts_with('-');
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        // No body is long enough for its digits to matter beside an exponent of this size.
        let far = if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 };
        let exponent: i64 = exponent.parse().unwrap_or(far).clamp(i64::MIN / 4, i64::MAX / 4);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = whole.bytes().chain(fraction.bytes()).filter(u8::is_ascii_digit);
        let mut digits: Vec<u8> = all.skip_while(|d| *d == b'0').collect();
        let significant = digits.iter().rposition(|d| *d != b'0').map_or(0, |last| last + 1);
        let zeros = digits.len() - significant;
        digits.truncate(significant);
        if digits.is_empty() {
            return Self { negative: false, digits, exponent: 0 };
        }
        Self { negative, digits, exponent: exponent - fraction.len() as i64 + zeros as i64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relate(a: &str, b: &str, tolerance: &Tolerance) -> Relation {
        super::relate(Number::read(a), Number::read(b), tolerance)
    }

    fn delta(prod: &str, candidate: &str) -> Option<f64> {
        super::delta(Number::read(prod), Number::read(candidate))
    }

    const NONE: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

    #[test]
    fn one_number_in_two_spellings_is_equal() {
        for (a, b) in [("1", "1.0"), ("0", "-0"), ("1e2", "100"), ("0.1", "0.10"), ("0.1", "0.10000000000000001")] {
            assert_eq!(relate(a, b, &NONE), Relation::Equal, "{a} {b}");
        }
        assert_eq!(relate("10000000000000000000000", "1e22", &NONE), Relation::Equal);
        assert_eq!(relate("0.0", "0e7", &NONE), Relation::Equal);
        assert_eq!(relate("1E400", "10E399", &NONE), Relation::Equal);
        assert_eq!(relate("NaN", "NaN", &NONE), Relation::Equal);
        assert_eq!(relate("-Infinity", "-Infinity", &NONE), Relation::Equal);
    }

    #[test]
    fn numbers_that_a_double_cannot_tell_apart_differ() {
        let pairs = [
            ("6000000000000002181", "6000000000000002180"),
            ("1E400", "2E400"),
            ("1E400", "Infinity"),
            ("1e-400", "0"),
            ("1e-400", "-1e-400"),
            ("1e99999999999999999999", "1e400"),
            ("NaN", "0"),
        ];
        for (a, b) in pairs {
            assert_eq!(relate(a, b, &NONE), Relation::Differs, "{a} {b}");
            assert_eq!(relate(b, a, &NONE), Relation::Differs, "{b} {a}");
        }
    }

    #[test]
    fn either_bound_is_enough_and_both_include_their_end() {
        let absolute = Tolerance { absolute: 0.1, relative: 0.0 };
        assert_eq!(relate("1.0", "1.1", &absolute), Relation::Within);
        assert_eq!(relate("0.3", "0.4", &absolute), Relation::Within);
        assert_eq!(relate("1.0", "1.1000001", &absolute), Relation::Differs);
        let relative = Tolerance { absolute: 0.0, relative: 0.01 };
        assert_eq!(relate("99", "100", &relative), Relation::Within);
        assert_eq!(relate("-99", "-100", &relative), Relation::Within);
        assert_eq!(relate("98.9", "100", &relative), Relation::Differs);
        assert_eq!(relate("1e-10", "2e-10", &Tolerance { absolute: 1e-9, relative: 0.01 }), Relation::Within);
    }

    #[test]
    fn a_tolerance_reaches_neither_infinity_nor_a_close_integer_by_rounding() {
        let wide = Tolerance { absolute: 1e9, relative: 0.5 };
        for (a, b) in [("1", "Infinity"), ("1", "NaN"), ("1E400", "2E400"), ("Infinity", "-Infinity")] {
            assert_eq!(relate(a, b, &wide), Relation::Differs, "{a} {b}");
        }
        let half = Tolerance { absolute: 0.5, relative: 0.0 };
        assert_eq!(relate("6000000000000002181", "6000000000000002180", &half), Relation::Differs);
    }

    #[test]
    fn a_delta_is_candidate_minus_prod_and_never_infinite() {
        assert_eq!(delta("0.25", "0.75"), Some(0.5));
        assert_eq!(delta("6000000000000002180", "6000000000000002181"), Some(1.0));
        assert_eq!(delta("1", "1E400"), None);
        assert_eq!(delta("-1e308", "1e308"), None);
        assert_eq!(delta("NaN", "NaN"), None);
    }

    proptest! {
        #[test]
        fn it_follows_the_formula_and_is_symmetric(a in any::<f64>(), b in any::<f64>(), absolute in 0.0..2.0, relative in 0.0..1.0) {
            prop_assume!(a.is_finite() && b.is_finite() && a != b);
            let (x, y) = (a.to_string(), b.to_string());
            let tolerance = Tolerance { absolute, relative };
            let bound = absolute.max(relative * a.abs().max(b.abs()));
            let expected = if (a - b).abs() <= bound { Relation::Within } else { Relation::Differs };
            prop_assert_eq!(relate(&x, &y, &tolerance), expected);
            prop_assert_eq!(relate(&y, &x, &tolerance), expected);
        }
    }
}
