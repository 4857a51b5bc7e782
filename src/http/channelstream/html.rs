//! The little HTML that is put together here; whatever comes from outside is escaped.

use std::borrow::Cow;

/// `text` as it may stand in an element or in a quoted attribute.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}

/// An error document.
pub(super) fn document(code: &str, explanation: &str, detail: &str) -> String {
    let [code, explanation, detail] = [code, explanation, detail].map(escape);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{code}</title></head>\n\
         <body><h1>{code}</h1><p>{explanation}</p><p>{detail}</p></body>\n</html>\n"
    )
}

/// The page to sign in on: the form, with the `user` that was tried, or why there is none.
pub(super) fn sign_in(user: &str, has_failed: bool, is_possible: bool) -> String {
    let form = if is_possible {
        let said = if has_failed { "<p class=\"wrong\" role=\"alert\">That is not right.</p>\n" } else { "" };
        format!(
            "{said}<form method=\"post\" action=\"sign_in\">\n\
             <label>User <input name=\"username\" value=\"{}\" autocomplete=\"username\" required></label>\n\
             <label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>\n\
             <button>Sign in</button>\n</form>",
            escape(user)
        )
    } else {
        "<p>Nobody can sign in: this server has no <code>CHANNELSTREAM_ADMIN_SECRET</code>. \
         Whoever runs it sets one, and starts it again.</p>"
            .to_owned()
    };
    include_str!("pages/sign_in.html").replace("{{form}}", &form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_escaped_ends_a_text_or_an_attribute() {
        assert_eq!(escape("plain ż"), "plain ż");
        assert_eq!(escape("</p>&\"'"), "&lt;/p&gt;&amp;&quot;&#39;");
    }

    #[test]
    fn the_user_that_was_tried_stands_in_the_form_escaped() {
        let page = sign_in("\"><script>alert(1)</script>{{form}}", true, true);
        assert!(page.contains("&quot;&gt;&lt;script&gt;") && !page.contains("<script>"), "{page}");
        assert!(page.contains("not right"));
    }

    #[test]
    fn without_a_password_the_page_says_so_and_has_no_form() {
        let page = sign_in("", false, false);
        assert!(page.contains("CHANNELSTREAM_ADMIN_SECRET") && !page.contains("<form"), "{page}");
    }
}
