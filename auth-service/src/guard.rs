//! What stands between strangers and our resources.

pub mod client_address;
pub mod registration_rate;
