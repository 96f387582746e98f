use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

/// All that a decoder gives for these pieces, as they come one after another.
fn decoded(decoder: &mut Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<http::HeaderMap>, bool), Malformed> {
    let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::More => break,
                Decoded::End => return Ok((data, trailers, buffer.is_empty())),
                Decoded::Frame(frame) => match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        }
    }
    Ok((data, trailers, false))
}

proptest! {
    #[test]
    fn chunks_come_out_whole_however_they_are_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(0_usize..400, 0..12),
        trailer in any::<bool>(),
        extension in "[a-z]{0,4}",
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            let extension = if extension.is_empty() { String::new() } else { format!(" ;{extension}") };
            wire.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(if trailer { b"0\r\nx-sum: 7\r\n\r\n" } else { b"0\r\n\r\n" });
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &wire[two[0]..two[1]]).collect();
        let mut decoder = Decoder::chunked();
        let (data, trailers, rest) = decoded(&mut decoder, &pieces).expect("well-formed");
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers.map(|fields| fields["x-sum"].clone()), trailer.then(|| "7".parse().expect("a value")));
        prop_assert!(rest && decoder.is_end());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), chunked in any::<bool>()) {
        let mut decoder = if chunked { Decoder::chunked() } else { Decoder::Length(50) };
        let _ = decoded(&mut decoder, &[&bytes]);
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long = [b"1;".as_slice(), &[b'x'; 20_000]].concat();
    let many = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(200), b"\r\n"].concat();
    let wordy = b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(1000);
    let padded = [b"1".as_slice(), &[b' '; 100], b"\r\na\r\n"].concat().repeat(300);
    let cases: [&[u8]; 20] = [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"1\n",
        b"1 2\r\n",
        b"1\x0c\r\n",
        b"1\r\r\n",
        b"11111111111111111\r\n",
        b"1\r\naXY",
        b"1\r\na\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\na: b\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"0\r\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"0\r\na: b\nc: d\r\n\r\n",
        &wordy,
        &padded,
        b"00000000000000001\r\n",
        &long,
        &many,
    ];
    for case in cases {
        let refused = decoded(&mut Decoder::chunked_request(), &[case]);
        assert_eq!(refused.err(), Some(Malformed), "{:?}", String::from_utf8_lossy(&case[..case.len().min(40)]));
    }
}

#[test]
fn an_answers_chunks_may_have_any_number_of_extensions() {
    let wire = format!("{}0\r\n\r\n", "1;seq=0123456789012345\r\nx\r\n".repeat(2000));
    let (data, _, all) = decoded(&mut Decoder::chunked(), &[wire.as_bytes()]).unwrap();
    assert!(all && data.len() == 2000);
    assert!(decoded(&mut Decoder::chunked_request(), &[wire.as_bytes()]).is_err());
}

#[test]
fn the_end_is_known_with_the_last_frame() {
    let mut decoder = Decoder::chunked();
    let mut buffer = BytesMut::from(&b"2\r\nab\r\n0\r\n\r\n"[..]);
    assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Frame(_))));
    assert!(decoder.is_end() && buffer.is_empty());
    let mut decoder = Decoder::Length(2);
    assert!(matches!(decoder.decode(&mut BytesMut::from(&b"abc"[..])), Ok(Decoded::Frame(_))));
    assert!(decoder.is_end());
}
