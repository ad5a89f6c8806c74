//! Limits and checks that protect this service and other servers from strangers.

pub mod account_rate;
pub mod addresses;
pub mod client_address;
pub mod device_rate;
pub mod fetch;
pub mod in_flight;
pub mod keyed_rate;
pub mod known_networks;
pub mod log_rate;
pub mod login_rate;
pub mod pace;
pub mod push_rate;
mod queues;
pub mod registration_rate;
pub mod turns;
pub mod waiting;
