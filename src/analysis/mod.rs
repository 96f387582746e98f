//! Floor 2: what two answers mean to each other. Pure: no I/O, and time is an argument.
//!
//! [`material`] are the facts of a pair as the answer path and a lane gathered them; [`pair`] turns them into its
//! record. On the way each body is undone of its codings ([`decode`]), a stream is put together ([`stream`]), it is read
//! once ([`json`]) and recorded ([`body`]) without what must be hidden ([`redact`], [`query`]); keys and slices are found ([`extract`]); and the answers are
//! compared ([`diff`]): the places that decide ([`values`]), and everything else ([`walk`]), by what the route's
//! API means by its bodies ([`api`]).

pub mod api;
pub mod body;
pub mod decode;
pub mod diff;
pub mod extract;
pub mod json;
pub mod material;
pub mod pair;
pub mod query;
pub mod redact;
pub mod stats;
pub mod stream;
pub mod values;
pub mod walk;
