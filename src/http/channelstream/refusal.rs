//! From what is wrong with a request to what is answered: Channelstream's error documents.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use warp::{Reply, reply::Response};

use super::{
    super::{accept::preference, reply},
    asked::Asked,
    html, pages,
};
use crate::{
    channelstream::Unavailable,
    protocol::channelstream::{Bad, Invalid},
};

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// By plain http, where https is asked for.
    Insecure,
    /// A signature that does not verify.
    BadSignature,
    /// No such path, or not with this method.
    NotFound,
    /// Not signed, or not from an address that may.
    Forbidden,
    /// To listen for a connection that is not known.
    UnknownConnection,
    /// A form of another host's page.
    CrossSite,
    /// Not signed in, on a page for who is.
    SignIn,
    /// A body that is no JSON.
    NotJson,
    /// A body that does not say what it should.
    Invalid(Invalid),
    /// A body of more than so many bytes.
    TooLarge(usize),
    /// A body that did not arrive whole.
    Incomplete,
    /// A wrong name or password of an administrator.
    WrongPassword {
        /// The name that was given, for the form that is shown again.
        user: String,
        /// Whether there is a password with which anybody can sign in.
        is_one_set: bool,
    },
    /// Others are trying to sign in.
    TooManySignIns,
    /// Not at present.
    Unavailable,
}

impl From<Bad> for Refusal {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::NotJson => Self::NotJson,
            Bad::Invalid(invalid) => Self::Invalid(invalid),
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl Refusal {
    /// One word, for counting.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Insecure => "insecure",
            Self::BadSignature => "bad-signature",
            Self::NotFound => "not-found",
            Self::Forbidden => "forbidden",
            Self::UnknownConnection => "unknown-connection",
            Self::CrossSite => "cross-site",
            Self::SignIn => "not-signed-in",
            Self::NotJson => "not-json",
            Self::Invalid(_) => "invalid",
            Self::TooLarge(_) => "too-large",
            Self::Incomplete => "incomplete",
            Self::WrongPassword { .. } => "wrong-password",
            Self::TooManySignIns => "too-many-sign-ins",
            Self::Unavailable => "unavailable",
        }
    }

    /// What the log says of it; `None` for what is no mistake of anybody.
    pub(super) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Insecure => "not by https: see CHANNELSTREAM_ENFORCE_HTTPS and TRUSTED_PROXIES",
            Self::BadSignature => "the signature does not verify: see CHANNELSTREAM_SECRET, or is a minute old",
            Self::NotFound => "Channelstream has nothing at this path for this method",
            Self::Forbidden => "not signed, or from an address that is not in CHANNELSTREAM_ALLOW_POSTING_FROM",
            Self::CrossSite => "the form was sent by a page of another host",
            Self::NotJson => "the body is not JSON",
            Self::Invalid(_) => "the body is not what this call takes: the answer says what is wrong",
            Self::TooLarge(_) => "the body is larger than TRIGGER_LIMIT, or than 4 KiB of a caller who has not signed",
            Self::Incomplete => "the body did not arrive whole in time",
            Self::WrongPassword { .. } => {
                "the name or password of the administrator is wrong: see CHANNELSTREAM_ADMIN_SECRET"
            }
            Self::TooManySignIns => "too many are trying to sign in at once",
            Self::Unavailable => "the log cannot be written or read at present",
            Self::SignIn | Self::UnknownConnection => return None,
        })
    }

    /// The answer to `asked`.
    pub(super) fn response(&self, asked: &Asked) -> Response {
        let document = |status, explanation, detail: &str| document(&asked.headers, status, explanation, detail);
        match self {
            Self::Insecure => {
                let explanation = "The resource could not be generated that was acceptable to your browser.";
                document(StatusCode::NOT_ACCEPTABLE, explanation, "SSL is required")
            }
            Self::BadSignature => reply::json(StatusCode::UNAUTHORIZED, &json!({"request": "Bad Signature"})),
            Self::NotFound => document(StatusCode::NOT_FOUND, "The resource could not be found.", ""),
            Self::Forbidden => document(StatusCode::FORBIDDEN, "Access was denied to this resource.", ""),
            Self::UnknownConnection => {
                let explanation = "This server could not verify that you are authorized to access the document.";
                document(StatusCode::UNAUTHORIZED, explanation, "")
            }
            Self::CrossSite => {
                let detail = "The form was sent by a page of another host.";
                document(StatusCode::FORBIDDEN, "Access was denied to this resource.", detail)
            }
            Self::SignIn => redirect(&asked.links.to("/admin/sign_in")),
            Self::NotJson => document(StatusCode::BAD_REQUEST, "The body of the request is not JSON.", ""),
            Self::Invalid(invalid) => reply::json(StatusCode::UNPROCESSABLE_ENTITY, invalid),
            Self::TooLarge(limit) => {
                let detail = format!("It may have up to {limit} bytes.");
                document(StatusCode::PAYLOAD_TOO_LARGE, "The body of the request is too large.", &detail)
            }
            Self::Incomplete => {
                document(StatusCode::REQUEST_TIMEOUT, "The body of the request did not arrive whole.", "")
            }
            Self::WrongPassword { user, is_one_set } => pages::page(html::sign_in(user, true, *is_one_set)),
            Self::TooManySignIns => {
                let explanation = "Too many are trying to sign in at once. Try again in a moment.";
                document(StatusCode::TOO_MANY_REQUESTS, explanation, "")
            }
            Self::Unavailable => {
                let explanation = "The server cannot do this at present. Try again in a moment.";
                reply::with_retry_after(document(StatusCode::SERVICE_UNAVAILABLE, explanation, ""))
            }
        }
    }
}

/// 302 to `link`.
pub(super) fn redirect(link: &str) -> Response {
    let mut response = StatusCode::FOUND.into_response();
    let link = HeaderValue::try_from(link).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, link);
    response
}

/// The forms of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Text,
}

/// What went wrong, in the form that the caller asks for with `Accept`.
pub(super) fn document(asked: &HeaderMap, status: StatusCode, explanation: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let code = format!("{} {title}", status.as_u16());
    let (body, content_type) = match form(asked) {
        Form::Json => {
            let message = format!("{explanation}\n\n\n{detail}\n\n");
            return reply::json(status, &json!({"message": message, "code": code, "title": title}));
        }
        Form::Html => (html::document(&code, explanation, detail), "text/html; charset=utf-8"),
        Form::Text => (format!("{code}\n\n{explanation}\n\n\n{detail}\n\n"), "text/plain; charset=utf-8"),
    };
    let mut response = warp::reply::with_status(body, status).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The form that `Accept` prefers (RFC 9110 section 12.5.1), HTML before JSON; plain text without one of them.
fn form(headers: &HeaderMap) -> Form {
    let html = preference(headers, "text", "html");
    let json = preference(headers, "application", "json");
    match html.max(json) {
        0 => Form::Text,
        best if best == html => Form::Html,
        _ => Form::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &[&str]) -> HeaderMap {
        accept.iter().map(|accept| (header::ACCEPT, accept.parse().unwrap())).collect()
    }

    #[test]
    fn the_form_of_a_document_is_what_the_caller_prefers() {
        for (accept, expected) in [
            (&[][..], Form::Text),
            (&["*/*"], Form::Html),
            (&["application/json"], Form::Json),
            (&["application/json", "text/html;q=0.5"], Form::Json),
            (&["application/json, text/html"], Form::Html),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Form::Html),
            (&["application/json, text/plain, */*"], Form::Html),
            (&["text/html;q=0, */*"], Form::Json),
            (&["text/*;q=0.2, application/json;q=0.1"], Form::Html),
            (&["image/png"], Form::Text),
            (&["text/plain"], Form::Text),
            (&["nonsense, /, ;q=, text/html;q=x"], Form::Text),
            (&["*/*;q=NaN"], Form::Text),
        ] {
            assert_eq!(form(&accepting(accept)), expected, "{accept:?}");
        }
    }

    #[tokio::test]
    async fn the_json_document_is_channelstreams() {
        let headers = accepting(&["application/json"]);
        let response = document(&headers, StatusCode::FORBIDDEN, "Access was denied to this resource.", "");
        let body = super::super::tests::text(response).await;
        let expected = json!({
            "message": "Access was denied to this resource.\n\n\n\n\n", "code": "403 Forbidden", "title": "Forbidden"
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected);
    }

    #[tokio::test]
    async fn an_html_document_escapes_what_it_says() {
        let response = document(&accepting(&["*/*"]), StatusCode::BAD_REQUEST, "a", "<script>\"&'");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let body = super::super::tests::text(response).await;
        assert!(body.contains("&lt;script&gt;&quot;&amp;&#39;") && !body.contains("<script"), "{body}");
    }
}
