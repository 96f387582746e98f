//! Floor 2: what the JSON of a stream's events says on its upper levels, told from its bytes as they pass: nothing is kept
//! but where the scan stands and the last name, however long a line is and however it was cut on its way. It trusts
//! that what it scans is JSON; what is not tells it nothing.

use crate::types::scan::unescaped;

/// The longest name or word that says something is shorter.
const TOKEN: usize = 32;
/// Names are looked at this far down: `choices`, an element, its `finish_reason`.
const LEVELS: usize = 3;

/// What a document says.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Facts {
    /// It is of a kind that is known.
    pub known: bool,
    /// It says that the model failed.
    pub error: bool,
    /// It says so in a word of a known kind's own.
    pub failed: bool,
    /// It says something beside that.
    pub others: bool,
    /// It says that its kind tells when it is finished.
    pub promised: bool,
    /// It says that the answer is finished.
    pub finished: bool,
    /// It is of a kind for which `[DONE]` is not the end.
    pub typed: bool,
    /// It is `[DONE]`.
    pub done: bool,
    /// It has candidates, and they are Gemini's; it has a flag `done`, and is Ollama's.
    candidates: bool,
    gemini: bool,
    flag: Option<bool>,
    /// It has a token, and the whole text, or not yet: TGI's.
    token: bool,
    generated: Option<bool>,
    dated: bool,
    words: bool,
}

/// The names that say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Candidates,
    Choices,
    Content,
    CreatedAt,
    Done,
    Error,
    FinishReason,
    GeneratedText,
    Message,
    Model,
    Object,
    Response,
    TextOutput,
    Token,
    Type,
    UsageMetadata,
    /// What stands beside an error.
    Companion,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b"candidates" => Self::Candidates,
            b"choices" => Self::Choices,
            b"content" => Self::Content,
            b"created_at" => Self::CreatedAt,
            b"done" => Self::Done,
            b"error" => Self::Error,
            b"finish_reason" | b"finishReason" => Self::FinishReason,
            b"generated_text" => Self::GeneratedText,
            b"message" => Self::Message,
            b"model" => Self::Model,
            b"object" => Self::Object,
            b"response" => Self::Response,
            b"text_output" => Self::TextOutput,
            b"token" => Self::Token,
            b"type" => Self::Type,
            b"usageMetadata" => Self::UsageMetadata,
            b"code" | b"detail" | b"details" | b"error_type" | b"event_id" | b"id" | b"param" | b"request_id"
            | b"status" | b"sequence_number" => Self::Companion,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Text,
    Escape,
    Word,
}

/// Where a scan stands.
#[derive(Debug)]
pub(super) struct Scan {
    state: State,
    depth: usize,
    /// Whether each of the upper levels is an object, and the name that was read last there.
    levels: [(bool, Name); LEVELS],
    /// Whether the next text is a name.
    names: bool,
    /// The text or word that passes, or has passed.
    token: Held<TOKEN>,
    facts: Facts,
}

/// A short text that came in pieces; one that is longer than those that say something is not kept.
#[derive(Debug)]
pub(super) struct Held<const MAX: usize> {
    bytes: [u8; MAX],
    length: usize,
}

impl<const MAX: usize> Held<MAX> {
    pub(super) const EMPTY: Self = Self { bytes: [0; MAX], length: 0 };

    pub(super) fn push(&mut self, piece: &[u8]) {
        let end = self.length + piece.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(piece);
        }
        self.length = end;
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The whole of it; empty where it is too long to say anything.
    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Scan {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            depth: 0,
            levels: [(false, Name::Other); LEVELS],
            names: false,
            token: Held::EMPTY,
            facts: Facts::default(),
        }
    }

    /// Whether it stands within a document.
    pub(super) fn is_within(&self) -> bool {
        self.depth > 0
    }

    /// What was begun is not gone on with.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Goes on over these bytes, and tells of each document that ends there.
    pub(super) fn over(&mut self, bytes: &[u8], mut told: impl FnMut(Facts)) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            at += 1;
            match self.state {
                State::Text => {
                    let plain = unescaped(&bytes[at - 1..]);
                    self.token.push(&bytes[at - 1..at - 1 + plain]);
                    at += plain;
                    match bytes.get(at - 1) {
                        Some(b'"') => self.text(),
                        Some(b'\\') => self.state = State::Escape,
                        _ => {}
                    }
                }
                State::Escape => {
                    // None of the names is written so.
                    self.token.length = TOKEN + 1;
                    self.state = State::Text;
                }
                State::Word if !matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r') => {
                    self.token.push(&[byte]);
                }
                State::Word | State::Between => {
                    if self.state == State::Word {
                        self.word();
                    }
                    if self.structure(byte) {
                        told(std::mem::take(&mut self.facts).whole());
                    }
                }
            }
        }
    }

    /// A byte between texts and words: whether a document ends with it.
    fn structure(&mut self, byte: u8) -> bool {
        self.state = State::Between;
        match byte {
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                self.names = false;
                return self.depth == 0;
            }
            b',' => self.names = self.level().is_some_and(|(object, _)| object),
            b'"' => {
                self.state = State::Text;
                self.token.clear();
            }
            // The bytes of a mark before the first document count as white space.
            b' ' | b'\t' | b'\n' | b'\r' | b':' | b'}' | b']' | 0xef | 0xbb | 0xbf => {}
            _ => {
                self.state = State::Word;
                self.token.clear();
                self.token.push(&[byte]);
            }
        }
        false
    }

    /// The level that the scan stands on, where names count.
    fn level(&self) -> Option<(bool, Name)> {
        self.depth.checked_sub(1).and_then(|at| self.levels.get(at)).copied()
    }

    fn open(&mut self, object: bool) {
        let facts = &mut self.facts;
        match (self.depth, self.levels) {
            (1, [(true, Name::Choices), ..]) => facts.known |= !object,
            (1, [(true, Name::Candidates), ..]) => facts.candidates |= !object,
            (1, [(true, Name::UsageMetadata), ..]) => facts.gemini |= object,
            (1, [(true, Name::Message), ..]) => facts.words |= object,
            (1, [(true, Name::Token), ..]) => facts.token |= object,
            (2, [(true, Name::Error), ..]) => facts.error = true,
            (3, [(true, Name::Candidates), (false, _), (true, Name::Content)]) => facts.gemini |= object,
            _ => {}
        }
        if let Some(level) = self.levels.get_mut(self.depth) {
            *level = (object, Name::Other);
        }
        self.depth += 1;
        self.names = object;
    }

    fn text(&mut self) {
        self.state = State::Between;
        if std::mem::take(&mut self.names) {
            self.name();
        } else {
            self.says(true);
        }
    }

    fn name(&mut self) {
        let name = Name::of(self.token.get());
        if self.depth == 1 {
            self.facts.others |= !matches!(
                name,
                Name::Error
                    | Name::Companion
                    | Name::CreatedAt
                    | Name::Message
                    | Name::Model
                    | Name::Object
                    | Name::Type
            );
        }
        if let Some(level) = self.depth.checked_sub(1).and_then(|at| self.levels.get_mut(at)) {
            level.1 = name;
        }
    }

    fn word(&mut self) {
        self.state = State::Between;
        self.says(false);
    }

    /// A scalar.
    fn says(&mut self, text: bool) {
        let blank = text && self.token.is_empty();
        let null = !text && self.token.get() == b"null";
        let word = self.token.get();
        let facts = &mut self.facts;
        match (self.depth, self.levels) {
            (1, [(false, _), ..]) => facts.done |= !text && word == b"DONE",
            (1, [(true, name), ..]) => match name {
                Name::Error => facts.error |= text && !blank,
                Name::Object => facts.error |= text && word == b"error",
                Name::Type if text => facts.type_is(word),
                Name::TextOutput => facts.known |= text,
                Name::Done if !text => facts.flag = (word == b"true" || word == b"false").then_some(word == b"true"),
                Name::Model | Name::CreatedAt => facts.dated |= text,
                Name::Response => facts.words |= text,
                Name::GeneratedText => facts.generated = Some(text),
                _ => {}
            },
            // An error that says anything.
            (2, [(true, Name::Error), ..]) => facts.error |= !null && !blank,
            (3, [(true, Name::Choices | Name::Candidates), (false, _), (true, Name::FinishReason)]) => {
                facts.promised |= null || blank;
                facts.finished |= text && !blank && word != b"FINISH_REASON_UNSPECIFIED";
                // OpenRouter's word for a stream that its provider has broken off.
                facts.failed |= text && word == b"error";
                facts.gemini |= text && self.levels[0].1 == Name::Candidates;
            }
            _ => {}
        }
    }
}

impl Facts {
    /// What more follows where all of it has passed.
    fn whole(mut self) -> Self {
        let gemini = self.candidates && self.gemini;
        let ollama = self.flag.filter(|_| self.dated && self.words);
        let tgi = self.generated.filter(|_| self.token);
        self.known |= gemini || ollama.is_some() || tgi.is_some();
        self.promised |= gemini || ollama == Some(false) || tgi == Some(false);
        self.finished |= ollama == Some(true) || tgi == Some(true);
        self
    }

    fn type_is(&mut self, word: &[u8]) {
        let begins = |start: &[u8]| word.starts_with(start);
        self.typed |= begins(b"message_") || begins(b"content_block_") || begins(b"response.");
        self.known |= self.typed;
        self.error |= word == b"error";
        self.failed |= word == b"response.failed";
        self.promised |= word == b"message_start" || word == b"response.created";
        self.finished |= matches!(word, b"message_stop" | b"response.completed" | b"response.incomplete");
    }
}
