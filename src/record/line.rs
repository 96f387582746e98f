//! A record as a line of JSON, byte for byte as serde_json writes it. serde_json looks at each byte of every string by
//! itself, and a record is strings: bodies, and a hundred names of fields. Here texts are looked at eight bytes at a time,
//! and names, which are Rust's and need no escape, not at all.

use serde::ser::{Error as _, Impossible, SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::Error;

use crate::types::scan::unescaped;

/// Writes what records are made of; anything else is an error.
#[derive(Debug)]
pub(super) struct Line(pub(super) Vec<u8>);

/// A list, a map or a struct that has begun.
pub(super) struct Inside<'l> {
    line: &'l mut Line,
    first: bool,
    close: u8,
}

impl Line {
    fn open(&mut self, open: u8, close: u8) -> Inside<'_> {
        self.0.push(open);
        Inside { line: self, first: true, close }
    }
}

/// Numbers are few: they are left to serde_json.
macro_rules! left_to_serde_json {
    ($($name:ident: $of:ty,)*) => {
        $(fn $name(self, value: $of) -> Result<(), Error> {
            serde_json::to_writer(&mut self.0, &value)
        })*
    };
}

/// What no record has.
macro_rules! not_in_a_record {
    ($($name:ident($($of:ty),*) -> $ok:ty,)*) => {
        $(fn $name(self, $(_: $of),*) -> Result<$ok, Error> {
            Err(Error::custom(concat!("a record has no place for ", stringify!($name))))
        })*
    };
}

type No = Impossible<(), Error>;

impl<'l> Serializer for &'l mut Line {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Inside<'l>;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = Inside<'l>;
    type SerializeStruct = Inside<'l>;
    type SerializeStructVariant = No;

    left_to_serde_json! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
    }

    not_in_a_record! {
        serialize_bytes(&[u8]) -> (),
        serialize_unit() -> (),
        serialize_unit_struct(&'static str) -> (),
        serialize_unit_variant(&'static str, u32, &'static str) -> (),
        serialize_tuple(usize) -> No,
        serialize_tuple_struct(&'static str, usize) -> No,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No,
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        string(text, &mut self.0);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        Err(Error::custom("a record has no place for an enum"))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Inside<'l>, Error> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Inside<'l>, Error> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Inside<'l>, Error> {
        Ok(self.open(b'{', b'}'))
    }
}

impl Inside<'_> {
    fn comma(&mut self) {
        if !std::mem::replace(&mut self.first, false) {
            self.line.0.push(b',');
        }
    }

    fn close(self) -> Result<(), Error> {
        self.line.0.push(self.close);
        Ok(())
    }
}

impl SerializeSeq for Inside<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.comma();
        value.serialize(&mut *self.line)
    }

    fn end(self) -> Result<(), Error> {
        self.close()
    }
}

impl SerializeMap for Inside<'_> {
    type Ok = ();
    type Error = Error;

    /// A key is a text: a record has no map of another kind.
    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Error> {
        self.comma();
        key.serialize(&mut *self.line)
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.line.0.push(b':');
        value.serialize(&mut *self.line)
    }

    fn end(self) -> Result<(), Error> {
        self.close()
    }
}

impl SerializeStruct for Inside<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        let out = &mut self.line.0;
        if std::mem::replace(&mut self.first, false) {
            out.push(b'"');
        } else {
            out.extend_from_slice(b",\"");
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        value.serialize(&mut *self.line)
    }

    fn end(self) -> Result<(), Error> {
        self.close()
    }
}

/// The JSON string of this text.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text.as_bytes(), out);
    out.push(b'"');
}

fn escape(mut text: &[u8], out: &mut Vec<u8>) {
    loop {
        let (plain, rest) = text.split_at(unescaped(text));
        out.extend_from_slice(plain);
        let Some((byte, rest)) = rest.split_first() else { return };
        escape_byte(*byte, out);
        text = rest;
    }
}

/// As serde_json does: the short form where there is one.
fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            const HEX: [u8; 16] = *b"0123456789abcdef";
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{Body, Comparison, Request, Value};

    fn written(value: &impl Serialize) -> Vec<u8> {
        let mut line = Line(Vec::new());
        value.serialize(&mut line).unwrap();
        line.0
    }

    fn assert_as_serde_json_does(value: &impl Serialize) {
        let (ours, theirs) = (written(value), serde_json::to_vec(value).unwrap());
        assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap());
    }

    #[test]
    fn every_character_is_written_as_serde_json_does_wherever_it_stands() {
        for code in (0..0x800).chain([0x2028, 0xfffd, 0x1f600]).filter_map(char::from_u32) {
            for before in 0..17 {
                assert_as_serde_json_does(&format!("{}{code}{code}x{code}", "a".repeat(before)));
            }
        }
    }

    /// Texts of what is escaped and of its neighbours, and any.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![r#"[\x00-\x23\x5b-\x5d\x7f-\x{a2}a]{0,64}"#, any::<String>()]
    }

    fn numbers() -> impl Strategy<Value = Option<Vec<Option<f64>>>> {
        proptest::option::of(proptest::collection::vec(proptest::option::of(any::<f64>()), 0..4))
    }

    prop_compose! {
        fn requests()(
            words in [texts(), texts(), texts()],
            query in proptest::option::of(texts()),
            data in proptest::option::of(texts()),
            headers in proptest::collection::btree_map(texts(), texts(), 0..4),
            bytes in any::<u64>(),
            truncated in any::<bool>(),
        ) -> Request {
            let [method, path, encoding] = words;
            let body = Body { encoding, data: data.clone(), truncated, reason: query.clone() };
            Request { method, path, query, headers, content_type: data, bytes, body }
        }
    }

    prop_compose! {
        fn comparisons()(
            (name, kind, result) in (texts(), texts(), texts()),
            numbers in [numbers(), numbers(), numbers()],
            text in proptest::option::of(texts()),
            differs_at in proptest::collection::vec(texts(), 0..4),
            flags in any::<[bool; 3]>(),
        ) -> Comparison {
            let [prod, candidate, delta] = numbers;
            let (prod_text, candidate_text) = (text.clone(), text);
            let value = Value { name, kind, result, prod, candidate, delta, prod_text, candidate_text };
            let [equal, within_tolerance, differs_at_truncated] = flags;
            Comparison { equal, within_tolerance, values: vec![value.clone(), value], differs_at, differs_at_truncated }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_written_as_serde_json_does(text in texts()) {
            assert_as_serde_json_does(&text);
        }

        #[test]
        fn any_part_of_a_record_is_too(request in requests(), comparison in comparisons()) {
            assert_as_serde_json_does(&request);
            assert_as_serde_json_does(&comparison);
        }
    }

    #[test]
    fn what_no_record_has_is_an_error_and_not_a_line() {
        let mut line = Line(Vec::new());
        assert!((1, 2).serialize(&mut line).is_err());
        assert!(().serialize(&mut line).is_err());
        assert!(BTreeMap::from([("a", ())]).serialize(&mut line).is_err());
    }
}
