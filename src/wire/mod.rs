//! Floor 1: HTTP/1.1 on the wire, as far as both of its sides need it: [`Input`] reads, [`head`] finds what stands before a
//! body, [`Decoder`] takes the body out, [`Queue`] puts together what goes out. What a client may say is the matter of
//! `listener::http1`, what a model may say that of `upstream::http1`.

mod decode;
pub mod head;
mod input;
mod queue;

pub use self::decode::{Decoded, Decoder, Malformed};
pub use self::input::Input;
pub use self::queue::Queue;

#[cfg(test)]
mod tests;
