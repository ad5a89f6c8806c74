//! The settings for the keys that sign tokens.

use std::time::Duration;

use serde::Deserialize;

use crate::keys::algorithm::SigningAlgorithm;
use crate::keys::set::RotationTerms;

use super::durations;
use super::{Environment, Problems};

#[derive(Default, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the variables")]
struct Raw {
    signing_algorithm: Option<String>,
    signing_key_period: Option<String>,
    signing_key_lead: Option<String>,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads `SIGNING_ALGORITHM` (default `EdDSA`), `SIGNING_KEY_PERIOD` (default 90 d, 0 disables automatic
/// rotation) and `SIGNING_KEY_LEAD` (default 10 min).
pub(super) fn read(environment: &Environment, problems: &mut Problems) -> RotationTerms {
    let raw: Raw = environment.concern(problems);
    let algorithm = raw.signing_algorithm.as_deref().map_or(Ok(SigningAlgorithm::default()), str::parse);
    let algorithm = algorithm.unwrap_or_else(|error| {
        problems.add("SIGNING_ALGORITHM", error);
        SigningAlgorithm::default()
    });
    // Replicas read the stored keys every five seconds, and verifiers cache keys for up to half the lead.
    let lead = durations::read(
        "SIGNING_KEY_LEAD",
        raw.signing_key_lead,
        10 * MINUTE,
        Duration::from_secs(15),
        7 * DAY,
        problems,
    );
    let period = match raw.signing_key_period.as_deref() {
        Some("0") => None,
        given => Some(durations::read(
            "SIGNING_KEY_PERIOD",
            given.map(str::to_owned),
            90 * DAY,
            // If the lead is invalid, the minimum period is unknown.
            if problems.has("SIGNING_KEY_LEAD") { Duration::ZERO } else { lead * 2 },
            3650 * DAY,
            problems,
        )),
    };
    RotationTerms { algorithm, period, lead }
}
