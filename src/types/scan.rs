//! Floor 0: how far a text goes on in one way. Bodies are read and written for every pair, so several bytes are looked at at once.

/// One byte in each of the eight.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The highest bit of each byte that is no digit, the first byte being the lowest; no other bit.
///
/// Without the bits of `0` a digit is below ten; what is not reaches the highest bit when the rest up to it is added.
pub fn others_than_digits(bytes: [u8; 16]) -> u128 {
    const fn each(byte: u8) -> u128 {
        u128::from_ne_bytes([byte; 16])
    }
    let values = u128::from_le_bytes(bytes) ^ each(b'0');
    (((values & each(0x7f)) + each(0x80 - 10)) | values) & each(0x80)
}

/// How many digits these bytes begin with.
pub fn digits(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(sixteen) = bytes[at..].first_chunk::<16>() {
        let others = others_than_digits(*sixteen);
        at += others.trailing_zeros() as usize / 8;
        if others != 0 {
            return at;
        }
    }
    at + bytes[at..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len() - at)
}

/// How many bytes come before one that JSON escapes: a quote, a backslash, or what is below a space.
pub fn unescaped(text: &[u8]) -> usize {
    // Each of the differences marks the bytes that borrow, which are those that are looked for, and behind the first of them
    // maybe others; bytes from 0x80 up are part of a character and never marked.
    let mut at = 0;
    while let Some(eight) = text[at..].first_chunk::<8>() {
        let bytes = u64::from_le_bytes(*eight);
        let (quotes, backslashes) = (bytes ^ each(b'"'), bytes ^ each(b'\\'));
        let low = bytes.wrapping_sub(each(b' ')) & !bytes;
        let quote = quotes.wrapping_sub(each(1)) & !quotes;
        let backslash = backslashes.wrapping_sub(each(1)) & !backslashes;
        let marked = (low | quote | backslash) & each(0x80);
        if marked != 0 {
            return at + marked.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' ')).unwrap_or(text.len() - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_is_told_wherever_it_stands() {
        for byte in 0..=255 {
            for at in 0..36 {
                let text = |fill: u8| [vec![fill; at], vec![byte], vec![fill; 11]].concat();
                assert_eq!(digits(&text(b'9')), if byte.is_ascii_digit() { at + 12 } else { at }, "{byte} at {at}");
                let plain = !matches!(byte, b'"' | b'\\' | ..b' ');
                assert_eq!(unescaped(&text(b'a')), if plain { at + 12 } else { at }, "{byte} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_where_a_look_at_each_byte_finds_it(bytes in prop::collection::vec(any::<u8>(), 0..40), of in 0_u8..4) {
            // Of few kinds, so that runs are long.
            let bytes: Vec<u8> = bytes.iter().map(|byte| [b'0', b'9', b'!', *byte][usize::from(byte % (of + 1))]).collect();
            let no_digit = bytes.iter().position(|byte| !byte.is_ascii_digit());
            prop_assert_eq!(digits(&bytes), no_digit.unwrap_or(bytes.len()));
            let escaped = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '));
            prop_assert_eq!(unescaped(&bytes), escaped.unwrap_or(bytes.len()));
        }
    }
}
