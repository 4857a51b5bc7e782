//! Credentials that a client shows anew: the forwarded headers of its connection change without another handshake.
//!
//! The server does not keep the handshake. A header without a parameter stays as it is, and so does one whose parameters the
//! client does not name. A header that is made of one parameter alone needs nothing but the new value. Only for templates that mix
//! a parameter with other sources, the values of these are kept beside the headers.

use std::borrow::Cow;

use http::HeaderName;
use serde_json::value::RawValue;

use super::{
    Handshake, Identity, InvalidHeader,
    headers::{fill, push_line},
};
use crate::{
    config::{Limits, Part, Source, Template},
    protocol::params::{BadParams, params},
};

/// What is forwarded of a client, and what it takes to renew that.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The forwarded headers.
    pub identity: Identity,
    /// Values of the sources that [`Sources`] lists, in its order.
    mixed: Box<[Option<Value>]>,
}

/// Holds a part of a cookie or a token, and so is never printed.
#[derive(Clone)]
struct Value(Box<[u8]>);

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl From<Identity> for Credentials {
    /// Returns the credentials of a client that cannot renew them.
    fn from(identity: Identity) -> Self {
        Self { identity, mixed: Box::default() }
    }
}

/// Why credentials are not renewed.
#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// The parameters are something else.
    #[error("params is an object of strings")]
    Malformed,
    /// The parameters take too many bytes.
    #[error("params takes more than {0} bytes (URL_LIMIT)")]
    TooLarge(usize),
    /// The headers would take too many bytes.
    #[error("the headers for the API would take more than {0} bytes (HEADER_LIMIT and URL_LIMIT)")]
    HeadersTooLarge(usize),
    /// A value cannot be sent.
    #[error(transparent)]
    InvalidHeader(#[from] InvalidHeader),
}

impl NotRenewed {
    /// The label it is counted under.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge(_) | Self::HeadersTooLarge(_) => "too-large",
            Self::InvalidHeader(_) => "header",
        }
    }
}

/// The sources of all templates that mix a parameter with another source.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    pub(super) fn of(wanted: &[(HeaderName, Template)]) -> Self {
        let mut mixed = Vec::new();
        for source in
            wanted.iter().filter(|(_, template)| is_mixed(template)).flat_map(|(_, template)| sources(template))
        {
            if !mixed.contains(source) {
                mixed.push(source.clone());
            }
        }
        Self(mixed)
    }

    /// Returns the credentials of a client that may renew them: the headers of `identity`, which were made of `handshake`.
    pub(super) fn credentials(&self, identity: Identity, handshake: &Handshake<'_>) -> Credentials {
        let value = |source| handshake.find(source).map(|value| Value(value.as_ref().into()));
        Credentials { identity, mixed: self.0.iter().map(value).collect() }
    }

    /// Returns `credentials` with the parameters that are `shown` instead of those that they were made of.
    ///
    /// # Errors
    /// When the parameters cannot be read, are too large, or have a value that could not be sent as a header.
    pub(super) fn renew(
        &self,
        wanted: &[(HeaderName, Template)],
        credentials: &Credentials,
        shown: &RawValue,
        limits: &Limits,
    ) -> Result<Credentials, NotRenewed> {
        let is_wanted = |name: &str| wanted.iter().any(|(_, template)| has_param(template, name));
        let shown = params(shown, limits.url_bytes, is_wanted).map_err(|bad| match bad {
            BadParams::NotStrings => NotRenewed::Malformed,
            BadParams::TooLarge => NotRenewed::TooLarge(limits.url_bytes),
        })?;
        let is_shown = |template: &Template| shown.iter().any(|(name, _)| has_param(template, name));
        let new = |source: &Source| match source {
            Source::Param(name) => shown.iter().find(|(shown, _)| shown == name).map(|(_, value)| value.as_bytes()),
            _ => None,
        };
        let find = |source: &Source| match new(source) {
            Some(value) => (!value.is_empty()).then_some(Cow::Borrowed(value)), // empty is absent, as in a query
            None => {
                let at = self.0.iter().position(|mixed| mixed == source)?;
                credentials.mixed.get(at)?.as_ref().map(|value| Cow::Borrowed(&*value.0))
            }
        };
        let mut lines = Vec::new();
        for (name, template) in wanted {
            if is_shown(template) {
                push_line(&mut lines, name, fill(template, find))?;
            } else if let Some(value) = credentials.identity.value(name) {
                push_line(&mut lines, name, Some(value.to_owned()))?;
            }
        }
        // As many bytes as the headers and the query of a handshake may have.
        let limit_bytes = limits.header_bytes + limits.url_bytes;
        if lines.len() > limit_bytes {
            return Err(NotRenewed::HeadersTooLarge(limit_bytes));
        }
        let mixed = self.0.iter().map(|source| find(source).map(|value| Value(value.as_ref().into()))).collect();
        Ok(Credentials { identity: Identity::from_bytes(&lines), mixed })
    }
}

fn sources(template: &Template) -> impl Iterator<Item = &Source> {
    template.parts.iter().filter_map(|part| match part {
        Part::From(source) => Some(source),
        Part::Fixed(_) => None,
    })
}

/// Whether the header is made of a parameter and of something else of the handshake.
fn is_mixed(template: &Template) -> bool {
    let first = sources(template).next();
    let has_param = sources(template).any(|source| matches!(source, Source::Param(_)));
    has_param && sources(template).any(|source| Some(source) != first)
}

fn has_param(template: &Template, name: &str) -> bool {
    sources(template).any(|source| matches!(source, Source::Param(param) if param == name))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};
    use serde_json::{Value as Json, json, value::to_raw_value};

    use super::*;
    use crate::config::{self, Config};

    fn config(headers: &Json) -> Config {
        let vars = [
            ("API_URL", "http://api/".to_owned()),
            ("API_HEADERS", headers.to_string()),
            ("HEADER_LIMIT", "1024".to_owned()),
            ("URL_LIMIT", "256".to_owned()),
        ];
        config::from_vars(vars.into_iter().map(|(name, value)| (name.to_owned(), value))).unwrap()
    }

    /// What is forwarded of a client with two cookies and this query, and then shows these parameters, one after the other.
    fn renewed(headers: &Json, query: &str, shown: &[Json]) -> Result<Vec<(String, String)>, NotRenewed> {
        let config = config(headers);
        let wanted = &config.backend.headers;
        let mut map = HeaderMap::new();
        map.insert(header::COOKIE, "a=1; b=2".parse().unwrap());
        let handshake = Handshake { headers: &map, query, peer: None };
        let sources = Sources::of(wanted);
        let mut credentials = sources.credentials(Identity::of(wanted, &handshake).unwrap(), &handshake);
        for shown in shown {
            credentials =
                sources.renew(wanted, &credentials, &to_raw_value(shown).unwrap(), &config.connection.limits)?;
            assert_eq!(credentials.mixed.len(), sources.0.len());
        }
        let headers = credentials.identity.headers();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut sent: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        sent.sort();
        Ok(sent)
    }

    fn with_cookie(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let all = expected.iter().chain(&[("cookie", "a=1; b=2")]);
        let mut all: Vec<_> = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.sort();
        all
    }

    #[test]
    fn a_shown_parameter_takes_the_place_of_that_of_the_handshake_and_all_else_stays() {
        let none = json!({});
        let token = |token| json!({"token": token});
        for (query, shown, expected) in [
            ("token=one", vec![], &[("authorization", "Token one")][..]),
            ("token=one", vec![json!({})], &[("authorization", "Token one")]),
            ("token=one", vec![json!({"other": "x"})], &[("authorization", "Token one")]),
            ("token=one", vec![token("two")], &[("authorization", "Token two")]),
            ("token=one", vec![token("two"), token("three")], &[("authorization", "Token three")]),
            ("token=one", vec![token("")], &[]),
            ("token=one", vec![token(""), token("two")], &[("authorization", "Token two")]),
            ("", vec![token("two")], &[("authorization", "Token two")]),
        ] {
            assert_eq!(renewed(&none, query, &shown).unwrap(), with_cookie(expected), "{query} {shown:?}");
        }
    }

    #[test]
    fn a_header_of_several_sources_is_made_anew_of_what_the_others_were() {
        let headers = json!({"X-Two": "{param:a}/{cookie:b}/{param:c}", "X-Both": "{param:a}-{param:a}"});
        let two = |two, both| with_cookie(&[("x-two", two), ("x-both", both)]);
        let renewed = |query, shown: &[Json]| renewed(&headers, query, shown).unwrap();
        assert_eq!(renewed("a=1&c=3", &[json!({"a": "x"})]), two("x/2/3", "x-x"));
        assert_eq!(renewed("a=1&c=3", &[json!({"c": "y"}), json!({"a": "x"})]), two("x/2/y", "x-x"));
        assert_eq!(renewed("a=1", &[json!({"a": "x"})]), with_cookie(&[("x-both", "x-x")]));
        assert_eq!(renewed("a=1", &[json!({"a": "x"}), json!({"c": "y"})]), two("x/2/y", "x-x"));
        assert_eq!(renewed("a=1&c=3", &[json!({"c": ""})]), with_cookie(&[("x-both", "1-1")]));
        assert_eq!(renewed("a=1&c=3", &[json!({"c": ""}), json!({"c": "y"})]), two("1/2/y", "1-1"));
    }

    #[test]
    fn only_what_is_mixed_is_kept_beside_the_headers() {
        let kept = |headers: Json| Sources::of(&config(&headers).backend.headers).0.len();
        assert_eq!(kept(json!({})), 0);
        assert_eq!(kept(json!({"X-A": "{param:a} {param:a}", "X-B": "{cookie:b}{peer}"})), 0);
        assert_eq!(kept(json!({"X-A": "{param:a}{cookie:b}", "X-B": "{cookie:b}{param:a}{param:c}"})), 3);
    }

    #[test]
    fn what_cannot_be_sent_or_is_too_large_is_refused_and_nothing_of_it_is_said() {
        let refused = |shown: Json| renewed(&json!({}), "token=one", &[shown]).unwrap_err();
        for shown in [json!(["s3cret"]), json!({"token": 1}), json!({"x": {"token": "s3cret"}})] {
            assert!(matches!(refused(shown), NotRenewed::Malformed));
        }
        for value in ["s3cret\r\nX-Evil: 1", "s3cret\n", "\0s3cret"] {
            let error = refused(json!({"token": value}));
            assert!(matches!(error, NotRenewed::InvalidHeader(_)));
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        assert!(matches!(refused(json!({"token": "x".repeat(300)})), NotRenewed::TooLarge(256)));
        let headers = json!({"X-Many": "{param:a}".repeat(10)});
        let error = renewed(&headers, "", &[json!({"a": "x".repeat(200)})]).unwrap_err();
        assert!(matches!(error, NotRenewed::HeadersTooLarge(1280)), "{error}");
    }
}
