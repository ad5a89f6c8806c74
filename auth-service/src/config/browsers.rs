//! The setting that decides which web pages are allowed to call the protected services.

use serde::Deserialize;

use crate::domain::origin::AllowedOrigins;

use super::{Environment, Problems};

#[derive(Default, Deserialize)]
struct Raw {
    allowed_origins: Option<String>,
}

/// Reads `ALLOWED_ORIGINS` (default `*`): the origins of browser clients, separated by commas. With `none`,
/// only the origins of the services themselves are allowed.
pub(super) fn read(environment: &Environment, problems: &mut Problems) -> AllowedOrigins {
    let raw: Raw = environment.concern(problems);
    let list = match raw.allowed_origins.as_deref() {
        None | Some("*") => return AllowedOrigins::Any,
        Some("none") => return AllowedOrigins::Listed([].into()),
        Some(list) => list,
    };
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let origins = entries.filter_map(|entry| match entry.parse() {
        Ok(origin) => Some(origin),
        Err(error) => {
            problems.add("ALLOWED_ORIGINS", format_args!("{entry:?} is {error}; or write * or none"));
            None
        }
    });
    AllowedOrigins::Listed(origins.collect())
}
