//! A kubeconfig, as an agent outside of a pod reads it.

use std::fmt::Write;

/// Whom to call, and as who.
#[derive(Debug)]
pub struct Access<'a> {
    /// `https://127.0.0.1:6443`
    pub server: &'a str,
    /// File with the certificate of who signed the server's; none for plain HTTP.
    pub authority: Option<&'a str>,
    pub token: Option<&'a str>,
}

impl Access<'_> {
    /// The file's text.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters:\n- name: test\n  cluster:\n    server: {}\n",
            self.server
        );
        if let Some(authority) = self.authority {
            add(
                &mut text,
                format_args!("    certificate-authority: {authority}\n"),
            );
        }
        match self.token {
            Some(token) => add(
                &mut text,
                format_args!("users: [{{name: test, user: {{token: {token}}}}}]\n"),
            ),
            None => text.push_str("users: [{name: test, user: {}}]\n"),
        }
        text
    }
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(more);
    assert!(written.is_ok(), "a string takes whatever is written to it");
}
