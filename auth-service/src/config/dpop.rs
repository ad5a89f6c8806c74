//! The setting that decides whether tokens can be bound to keys of clients.

use serde::Deserialize;

use crate::dpop::DpopMode;

use super::{Environment, Problems};

#[derive(Default, Deserialize)]
struct Raw {
    dpop: Option<String>,
}

/// Reads `DPOP` (default `on`), which is `off`, `on` or `nonce`.
pub(super) fn read(environment: &Environment, problems: &mut Problems) -> DpopMode {
    let raw: Raw = environment.concern(problems);
    match raw.dpop.as_deref() {
        None | Some("on") => DpopMode::On,
        Some("off") => DpopMode::Off,
        Some("nonce") => DpopMode::WithNonce,
        Some(other) => {
            problems.add("DPOP", format_args!("{other:?} is not a mode of DPoP; write off, on or nonce"));
            DpopMode::default()
        }
    }
}
