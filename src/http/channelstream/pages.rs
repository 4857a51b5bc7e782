//! The pages of the admin and the files they are made of, all of them in the program.

use http::{HeaderName, header};
use serde_json::{Map, Value};
use warp::reply::Response;

use super::{
    super::{admin::typed, reply},
    route::STATIC,
};

/// The page with the numbers, channels and users.
pub(super) const ADMIN: &str = include_str!("pages/admin.html");
/// The page to try calls on.
pub(super) const EXPLORER: &str = include_str!("pages/explorer.html");
/// The paths of Channelstream's API, for machines (Swagger 2.0).
pub(super) const SWAGGER: &str = include_str!("swagger.json");

/// Name, content type and content of what is under `/static/`.
const FILES: [(&str, &str, &str); 5] = [
    ("admin.js", "text/javascript; charset=utf-8", include_str!("pages/admin.js")),
    ("common.js", "text/javascript; charset=utf-8", include_str!("pages/common.js")),
    ("dom.js", "text/javascript; charset=utf-8", include_str!("../page/dom.js")),
    ("explorer.js", "text/javascript; charset=utf-8", include_str!("pages/explorer.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
];

/// Pages load nothing but what is here, run no script that stands in them, and stand in no other page.
const POLICY: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
];

/// A page.
pub(super) fn page(html: String) -> Response {
    reply::with_headers(typed(html, "text/html; charset=utf-8"), &POLICY)
}

/// What `/admin/debug` says. The original prints the server's internals here, which is nobody's business.
pub(super) fn debug() -> Response {
    let text = concat!("high-templar ", env!("CARGO_PKG_VERSION"), "\nThe numbers are at /admin/admin.json.\n");
    typed(text, "text/plain; charset=utf-8")
}

/// The file at this path.
pub(super) fn file(path: &str) -> Option<Response> {
    let name = path.strip_prefix(STATIC)?;
    let (_, content_type, content) = FILES.iter().find(|(known, ..)| *known == name)?;
    let headers = [(header::CACHE_CONTROL, "no-cache"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Some(reply::with_headers(typed(*content, content_type), &headers))
}

/// The document of the API, whose paths have `script` before them.
pub(super) fn swagger(script: &str) -> String {
    if script.is_empty() {
        return SWAGGER.to_owned();
    }
    let Ok(mut document) = serde_json::from_str::<Map<String, Value>>(SWAGGER) else { return SWAGGER.to_owned() };
    document.insert("basePath".to_owned(), script.into());
    Value::Object(document).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_page_names_is_there_and_no_script_stands_in_a_page() {
        for page in [ADMIN, EXPLORER, include_str!("pages/sign_in.html")] {
            let names = page.split("static/").skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name);
            for name in names {
                assert!(file(&format!("/static/{name}")).is_some(), "{name}");
            }
            assert!(!page.contains("<script>") && !page.contains("style=") && !page.contains(" onload="), "{page}");
        }
        assert!(file("/static/../mod.rs").is_none() && file("/static/").is_none());
    }

    #[test]
    fn no_script_writes_html() {
        for (name, _, content) in FILES {
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!content.contains(word), "{name} has {word}");
            }
        }
    }

    #[test]
    fn the_document_tells_the_prefix_of_a_proxy() {
        let document: Value = serde_json::from_str(&swagger("/pre")).unwrap();
        assert_eq!((&document["basePath"], &document["swagger"]), (&"/pre".into(), &"2.0".into()));
        assert_eq!(swagger(""), SWAGGER);
    }
}
