//! What a header for the backend is made of.

/// Text with places that are filled in from a client's handshake; without a value for one of them there is no header.
///
/// `Token {param:token}`: sources are `{header:NAME}`, `{cookie:NAME}`, `{param:NAME}` and `{peer}`; `{{` and `}}` are
/// braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// In order.
    pub parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Fixed(String),
    /// Text from the handshake.
    From(Source),
}

/// Where in a client's handshake a value is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A request header; the first one of that name, absent when empty.
    Header(http::HeaderName),
    /// A cookie; its name counts in upper and lower case.
    Cookie(String),
    /// A query parameter; absent when empty.
    Param(String),
    /// The address of the TCP peer, `<local>` on a unix socket.
    Peer,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Says which placeholder is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut fixed = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            fixed.push_str(&rest[..at]);
            let found = &rest[at..];
            rest = if let Some(after) = found.strip_prefix("{{") {
                fixed.push('{');
                after
            } else if let Some(after) = found.strip_prefix("}}") {
                fixed.push('}');
                after
            } else {
                let placeholder = found.strip_prefix('{').and_then(|found| found.split_once('}'));
                let (source, after) =
                    placeholder.ok_or("has a brace without its partner ({{ and }} are plain braces)")?;
                if !fixed.is_empty() {
                    parts.push(Part::Fixed(std::mem::take(&mut fixed)));
                }
                parts.push(Part::From(Source::parse(source)?));
                after
            };
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            parts.push(Part::Fixed(fixed));
        }
        Ok(Self { parts })
    }
}

impl Source {
    fn parse(text: &str) -> Result<Self, String> {
        let unknown =
            || format!("has no source {{{text}}}: use {{header:NAME}}, {{cookie:NAME}}, {{param:NAME}} or {{peer}}");
        match text.split_once(':') {
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| unknown()),
            Some(("cookie", name)) if !name.is_empty() => Ok(Self::Cookie(name.to_owned())),
            Some(("param", name)) if !name.is_empty() => Ok(Self::Param(name.to_owned())),
            None if text == "peer" => Ok(Self::Peer),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_with_places() {
        let template = Template::parse("{{x}} {param:a}-{header:X-B}{peer}").unwrap();
        assert_eq!(
            template.parts,
            [
                Part::Fixed("{x} ".into()),
                Part::From(Source::Param("a".into())),
                Part::Fixed("-".into()),
                Part::From(Source::Header("x-b".parse().unwrap())),
                Part::From(Source::Peer),
            ]
        );
        for wrong in ["{", "}", "{}", "{param:}", "{body:x}", "{header:a b}", "{peer"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
