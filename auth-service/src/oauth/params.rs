//! Request parameters in `application/x-www-form-urlencoded` (RFC 6749 Appendix B).

use actix_web::HttpRequest;
use actix_web::http::header::CONTENT_TYPE;

/// The parameters of a query or form, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

/// Why the parameters of a request are refused (`invalid_request`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// The query or body is not form-encoded, or has more than 100 parameters.
    #[error("the parameters cannot be read: they must be form-encoded, and there must be at most 100")]
    Unreadable,
    /// A parameter is repeated, which RFC 6749 §3.1 does not allow.
    #[error("a parameter is given more than once")]
    Doubled,
    /// The body of the request is not a form (RFC 6749 §4.1.3 and others).
    #[error("the Content-Type must be application/x-www-form-urlencoded")]
    ContentType,
}

/// Maximum number of parameters in a query or form.
const MAX_PARAMS: usize = 100;

impl Params {
    /// Reads the parameters of a query string.
    pub(super) fn of_query(query: &str) -> Result<Self, BadParams> {
        Self::read(query.as_bytes())
    }

    /// Checks the Content-Type, and reads the parameters of a form body.
    pub(super) fn of_form(request: &HttpRequest, body: &[u8]) -> Result<Self, BadParams> {
        let content_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let parameters = parameters.trim().to_ascii_lowercase();
        let plain_charset = matches!(parameters.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"");
        if !essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") || !plain_charset {
            return Err(BadParams::ContentType);
        }
        Self::read(body)
    }

    fn read(encoded: &[u8]) -> Result<Self, BadParams> {
        if encoded.split(|byte| *byte == b'&').nth(MAX_PARAMS).is_some() {
            return Err(BadParams::Unreadable);
        }
        serde_urlencoded::from_bytes(encoded).map(Self).map_err(|_| BadParams::Unreadable)
    }

    /// The value of a parameter that can occur only once. An empty value is treated as absent (RFC 6749 §3.1).
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, BadParams> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() {
            return Err(BadParams::Doubled);
        }
        Ok(first.filter(|value| !value.is_empty()))
    }

    /// All values of a parameter that can be repeated (`resource`, RFC 8707 §2). Empty values are ignored.
    pub(super) fn many(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Encodes the parameters as a form, without those in `names` and with the value in `set` instead of the old
    /// one.
    pub(super) fn encoded_without(&self, names: &[&str], set: (&str, &str)) -> String {
        let kept = self
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !names.contains(name) && *name != set.0);
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(kept.chain([set])).finish()
    }

    /// Whether any parameter other than `resource` is repeated.
    pub(super) fn has_doubled(&self) -> bool {
        let mut names: Vec<&str> =
            self.0.iter().map(|(key, _)| key.as_str()).filter(|key| *key != "resource").collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair.first() == pair.last())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a011_a_doubled_parameter_is_noticed() {
        let params = Params::of_query("a=1&b=2&a=1&resource=x&resource=y&c=").unwrap();
        assert_eq!(params.one("a"), Err(BadParams::Doubled));
        assert_eq!(params.one("b"), Ok(Some("2")));
        assert_eq!(params.one("c"), Ok(None));
        assert_eq!(params.many("resource"), ["x", "y"]);
        assert!(params.has_doubled());
        assert!(!Params::of_query("resource=x&resource=y").unwrap().has_doubled());
    }

    #[test]
    fn a038_other_content_types_are_refused() {
        let form = |content_type: Option<&str>| {
            let request = content_type.map_or_else(TestRequest::default, |value| {
                TestRequest::default().insert_header((CONTENT_TYPE, value))
            });
            Params::of_form(&request.to_http_request(), b"a=1").map(|_| ())
        };
        assert_eq!(form(Some("application/x-www-form-urlencoded")), Ok(()));
        assert_eq!(form(Some("Application/X-WWW-Form-Urlencoded; charset=UTF-8")), Ok(()));
        for other in [
            None,
            Some("application/json"),
            Some("multipart/form-data; boundary=x"),
            Some("text/plain"),
            Some("application/x-www-form-urlencoded; charset=utf-7"),
            Some("application/x-www-form-urlencodedx"),
        ] {
            assert_eq!(form(other), Err(BadParams::ContentType), "{other:?}");
        }
    }

    #[test]
    fn a040_thousands_of_parameters_are_refused() {
        let query = "a=1&".repeat(10_000);
        assert_eq!(Params::of_query(&query).unwrap_err(), BadParams::Unreadable);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(params) = Params::read(&bytes) {
                let _ = params.has_doubled();
            }
        }

        #[test]
        fn what_was_sent_is_what_is_read(pairs in prop::collection::vec(("[a-c]{1,2}", ".{0,12}"), 0..8)) {
            let encoded = serde_urlencoded::to_string(&pairs).unwrap();
            let params = Params::of_query(&encoded).unwrap();
            for (name, value) in &pairs {
                let values: Vec<_> = pairs.iter().filter(|(other, _)| other == name).collect();
                let expected = match values.as_slice() {
                    [_] => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
                    _ => Err(BadParams::Doubled),
                };
                prop_assert_eq!(params.one(name), expected);
                prop_assert_eq!(params.has_doubled() || values.len() == 1, true);
            }
        }
    }
}
