//! The status page, which an operator opens first: `/`, and the files it is made of. There is no data in it: its script
//! fetches that from the other paths of the listener, with the token that it asks for where there is one.

use http::{HeaderName, StatusCode, header};
use warp::{Filter, Rejection, reply::Response};

use super::{admin::typed, methods::get, reply};

/// Where its files are.
pub(super) const FOLDER: &str = "page/";

const PAGE: &str = include_str!("page/index.html");
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, content type and content of what is in the folder.
const FILES: [(&str, &str, &str); 11] = [
    ("act.js", JAVASCRIPT, include_str!("page/act.js")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("fetch.js", JAVASCRIPT, include_str!("page/fetch.js")),
    ("format.js", JAVASCRIPT, include_str!("page/format.js")),
    ("look.js", JAVASCRIPT, include_str!("page/look.js")),
    ("main.js", JAVASCRIPT, include_str!("page/main.js")),
    ("numbers.js", JAVASCRIPT, include_str!("page/numbers.js")),
    ("rates.js", JAVASCRIPT, include_str!("page/rates.js")),
    ("status.css", CSS, include_str!("page/status.css")),
    ("style.css", CSS, include_str!("page/style.css")),
    ("tables.js", JAVASCRIPT, include_str!("page/tables.js")),
];

/// The page loads nothing but its own files, talks to its own listener alone, and stands in no other page.
const POLICY: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) fn routes() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let page = warp::path::end().and(get()).map(|| served(PAGE, "text/html; charset=utf-8"));
    let files = warp::path!("page" / String).and(get()).map(|name: String| {
        match FILES.iter().find(|(known, ..)| *known == name) {
            Some((_, content_type, content)) => served(content, content_type),
            None => reply::error(StatusCode::NOT_FOUND, "not-found", "the page has no such file"),
        }
    });
    page.or(files).unify()
}

fn served(content: &'static str, content_type: &'static str) -> Response {
    reply::with_headers(typed(content, content_type), &POLICY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> &'static str {
        let found = FILES.iter().find(|(known, ..)| *known == name);
        found.unwrap_or_else(|| panic!("{name} is not there")).2
    }

    /// What stands in `text` between `before` and the next quotation mark.
    fn names<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name)
    }

    #[test]
    fn every_file_that_is_named_is_there_and_none_for_nothing() {
        let mut named: Vec<_> = names(PAGE, "\"page/").collect();
        for (name, _, content) in FILES.iter().filter(|(_, content_type, _)| *content_type == JAVASCRIPT) {
            let imported: Vec<_> = names(content, "from \"./").collect();
            assert!(!imported.contains(name), "{name} imports itself");
            named.extend(imported);
        }
        named.iter().for_each(|name| assert!(!file(name).is_empty(), "{name}"));
        for (name, ..) in FILES {
            assert!(named.contains(&name), "{name} is used nowhere");
        }
    }

    #[test]
    fn nothing_in_it_needs_more_than_the_policy_allows() {
        for word in ["<script>", "<style", "style=", " on", "javascript:", "http:", "https:", "//"] {
            let found = PAGE.match_indices(word).find(|(at, _)| word != " on" || is_attribute(&PAGE[*at..]));
            assert_eq!(found, None, "{word}");
        }
        for (name, _, content) in FILES {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "url("]
            {
                assert!(!content.contains(word), "{name} has {word}");
            }
        }
    }

    /// Whether ` on…` is an event handler, as in ` onload=`.
    fn is_attribute(text: &str) -> bool {
        let rest = text.trim_start().trim_start_matches(|c: char| c.is_ascii_alphabetic());
        rest.starts_with("=\"")
    }
}
