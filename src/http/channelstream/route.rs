//! Which request is which endpoint, and who may use it.

use http::Method;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `POST /connect`.
    Connect,
    /// `POST /subscribe`.
    Subscribe,
    /// `POST /unsubscribe`.
    Unsubscribe,
    /// `POST /user_state`.
    UserState,
    /// `POST /message`.
    Message,
    /// `PATCH /message`.
    Edit,
    /// `DELETE /message`.
    Delete,
    /// `POST /channel_config`.
    ChannelConfig,
    /// `/info`.
    Info,
    /// `/listen`, a long poll.
    Listen,
    /// `/disconnect`.
    Disconnect,
    /// `/admin`, the page.
    Admin,
    /// `/admin/admin.json`, its numbers.
    Statistics,
    /// `/admin/debug`.
    Debug,
    /// `/admin/sign_in`.
    SignIn,
    /// `/admin/sign_out`.
    SignOut,
    /// `/openapi.json`.
    OpenApi,
    /// `/api-explorer`.
    Explorer,
    /// `/static/…`.
    Static,
    /// `OPTIONS` on any path.
    Preflight,
}

/// Who may use an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Anyone,
    /// Who has signed the request.
    Signed,
    /// Who has signed in, or has signed the request.
    Admin,
}

/// Any method will do.
const ANY: &str = "*";
/// Where the files of the pages are.
pub(super) const STATIC: &str = "/static/";

/// Paths with their methods.
const ROUTES: [(&str, &str, Endpoint); 18] = [
    ("/connect", "POST", Endpoint::Connect),
    ("/subscribe", "POST", Endpoint::Subscribe),
    ("/unsubscribe", "POST", Endpoint::Unsubscribe),
    ("/user_state", "POST", Endpoint::UserState),
    ("/message", "POST", Endpoint::Message),
    ("/message", "PATCH", Endpoint::Edit),
    ("/message", "DELETE", Endpoint::Delete),
    ("/channel_config", "POST", Endpoint::ChannelConfig),
    ("/info", ANY, Endpoint::Info),
    ("/listen", "GET HEAD", Endpoint::Listen),
    ("/disconnect", ANY, Endpoint::Disconnect),
    ("/admin", ANY, Endpoint::Admin),
    ("/admin/admin.json", "GET HEAD POST", Endpoint::Statistics),
    ("/admin/debug", ANY, Endpoint::Debug),
    ("/admin/sign_in", ANY, Endpoint::SignIn),
    ("/admin/sign_out", ANY, Endpoint::SignOut),
    ("/openapi.json", ANY, Endpoint::OpenApi),
    ("/api-explorer", ANY, Endpoint::Explorer),
];

/// What `method` on `path` asks for; nothing, if the path is unknown or does not know the method.
pub(super) fn route(method: &Method, path: &str) -> Option<Endpoint> {
    if method == Method::OPTIONS {
        return Some(Endpoint::Preflight);
    }
    if path.starts_with(STATIC) {
        return (method == Method::GET || method == Method::HEAD).then_some(Endpoint::Static);
    }
    let knows = |methods: &str| methods == ANY || methods.split(' ').any(|known| known == method.as_str());
    let found = ROUTES.iter().find(|(known, methods, _)| *known == path && knows(methods));
    found.map(|(_, _, endpoint)| *endpoint)
}

/// Whether `path` is one of those that are served to callers who have signed, or to administrators.
pub(super) fn is_for_callers(path: &str) -> bool {
    ROUTES.iter().any(|(known, _, endpoint)| *known == path && endpoint.access() != Access::Anyone)
}

impl Endpoint {
    /// Who may use it.
    pub(super) fn access(self) -> Access {
        match self {
            Self::Connect
            | Self::Subscribe
            | Self::Unsubscribe
            | Self::UserState
            | Self::Message
            | Self::Edit
            | Self::Delete
            | Self::ChannelConfig
            | Self::Info => Access::Signed,
            Self::Admin | Self::Statistics | Self::Debug | Self::OpenApi | Self::Explorer => Access::Admin,
            Self::Listen | Self::Disconnect | Self::SignIn | Self::SignOut | Self::Static | Self::Preflight => {
                Access::Anyone
            }
        }
    }

    /// Whether pages of other hosts may read its answers.
    pub(super) fn is_for_other_hosts(self) -> bool {
        !matches!(self, Self::Static | Self::Explorer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn routed(method: &str, path: &str) -> Option<Endpoint> {
        route(&method.parse().unwrap(), path)
    }

    #[test]
    fn a_path_is_known_as_it_is_written_and_by_its_methods() {
        for (method, path, endpoint) in [
            ("POST", "/connect", Some(Endpoint::Connect)),
            ("GET", "/connect", None),
            ("POST", "/connect/", None),
            ("POST", "/Connect", None),
            ("POST", "/message", Some(Endpoint::Message)),
            ("PATCH", "/message", Some(Endpoint::Edit)),
            ("DELETE", "/message", Some(Endpoint::Delete)),
            ("PUT", "/message", None),
            ("GET", "/info", Some(Endpoint::Info)),
            ("BREW", "/info", Some(Endpoint::Info)),
            ("HEAD", "/listen", Some(Endpoint::Listen)),
            ("POST", "/listen", None),
            ("GET", "/disconnect", Some(Endpoint::Disconnect)),
            ("PUT", "/admin/admin.json", None),
            ("GET", "/static/style.css", Some(Endpoint::Static)),
            ("POST", "/static/style.css", None),
            ("GET", "/", None),
            ("GET", "", None),
            ("OPTIONS", "/nowhere", Some(Endpoint::Preflight)),
            ("GET", "*", None),
        ] {
            assert_eq!(routed(method, path), endpoint, "{method} {path}");
        }
    }

    #[test]
    fn the_swagger_document_names_the_routes_there_are() {
        let document: Value = serde_json::from_str(super::super::pages::SWAGGER).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let documented: BTreeSet<_> = paths.keys().map(String::as_str).collect();
        let known: BTreeSet<_> = ROUTES.iter().map(|(path, ..)| *path).chain(["/static/{file}", "/ws"]).collect();
        assert_eq!(documented, known);
        for (path, operations) in paths.iter().filter(|(path, _)| *path != "/ws") {
            for (method, operation) in operations.as_object().unwrap() {
                let method = method.to_uppercase();
                let endpoint = routed(&method, path).unwrap_or_else(|| panic!("{method} {path}"));
                let is_signed = operation.get("security").is_some();
                assert_eq!(is_signed, endpoint.access() != Access::Anyone, "{method} {path}");
            }
        }
        for (path, methods, _) in ROUTES.iter().filter(|(_, methods, _)| *methods != ANY) {
            for method in methods.split(' ').filter(|method| *method != "HEAD") {
                assert!(paths[*path].get(method.to_lowercase()).is_some(), "{method} {path}");
            }
        }
    }
}
