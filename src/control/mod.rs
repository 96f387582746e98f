//! Floor 5: the control plane: the single writer of live state ([`reload`]), and what keeps it true while nobody asks:
//! names are resolved ([`resolve`]), endpoints asked whether they are ready ([`health`]) and shadows held to their share
//! of a CPU quota ([`quota`]) here, never on the answer path. All of it runs on the admin thread.

pub mod health;
pub mod quota;
pub mod reload;
pub mod resolve;
