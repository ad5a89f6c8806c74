//! Cryptographic keys: the store key with the keys that are derived from it, and the keys that sign tokens.

pub mod algorithm;
pub mod dpop;
pub mod seal;
pub mod set;
pub mod signing;
pub mod stored;
pub mod tokens;
