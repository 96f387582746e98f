//! Floor 5: the control plane: the single writer of live state ([`reload`]), and what keeps it true while nobody asks:
//! names are resolved ([`resolve`]) and endpoints asked whether they are ready ([`health`]) here, never on the answer
//! path. All of it runs on the admin thread.

pub mod health;
pub mod reload;
pub mod resolve;
