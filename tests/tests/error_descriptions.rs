//! Tests that docs/errors.md contains exactly the error descriptions in the source. Users search for these
//! texts, so the document must be changed together with the source.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use syn::visit::Visit;
use tests::places;

/// The files and directories with error descriptions, below auth-service/src.
const SOURCES: [&str; 16] = [
    "clients.rs",
    "dpop.rs",
    "guard/pace.rs",
    "keys/dpop.rs",
    "oauth/authorization_request.rs",
    "oauth/client_assertion.rs",
    "oauth/client_auth.rs",
    "oauth/introspect.rs",
    "oauth/params.rs",
    "oauth/pushed_request.rs",
    "oauth/register.rs",
    "oauth/register/manage.rs",
    "oauth/register/metadata.rs",
    "oauth/requested_scope.rs",
    "oauth/responses.rs",
    "oauth/token",
];

/// Collects the string literals that contain spaces, except in tests, in macro calls (which log) and in
/// documentation.
#[derive(Default)]
struct Texts(Vec<String>);

impl Texts {
    fn add(&mut self, text: &syn::LitStr) {
        let text = text.value();
        let is_challenge = text.starts_with("Bearer ") || text.starts_with("Basic ");
        if text.contains(' ') && !is_challenge {
            self.0.push(text);
        }
    }

    fn read(&mut self, path: &Path) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                self.read(&entry.unwrap().path());
            }
        } else {
            let file = syn::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
            self.visit_file(&file);
        }
    }
}

impl<'ast> Visit<'ast> for Texts {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // `#[error("…")]` contains a string, but `#[error(transparent)]` does not.
        if attribute.path().is_ident("error") {
            let text = attribute.parse_args_with(|input: syn::parse::ParseStream<'_>| {
                let text = input.parse::<syn::LitStr>().ok();
                // The arguments after the string are skipped.
                input.step(|cursor| {
                    let mut rest = *cursor;
                    while let Some((_, next)) = rest.token_tree() {
                        rest = next;
                    }
                    Ok(((), rest))
                })?;
                Ok(text)
            });
            text.unwrap().iter().for_each(|text| self.add(text));
        }
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.add(text);
    }
}

/// Whether a line of the document matches the text in the source. A placeholder `{…}` matches a word in capital
/// letters.
fn is_said(line: &str, text: &str) -> bool {
    let mut rest = line;
    for (n, piece) in text.split('{').enumerate() {
        let literal = if n == 0 { piece } else { piece.split_once('}').map_or("", |(_, after)| after) };
        if n > 0 {
            let word = rest.chars().take_while(char::is_ascii_uppercase).count();
            if word == 0 {
                return false;
            }
            rest = &rest[word..];
        }
        match rest.strip_prefix(literal) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// The contents of all files below `path`.
fn written(path: &Path) -> String {
    if !path.is_dir() {
        return std::fs::read_to_string(path).unwrap();
    }
    std::fs::read_dir(path).unwrap().map(|entry| written(&entry.unwrap().path())).collect()
}

#[test]
fn the_page_of_errors_has_every_description_and_no_other() {
    let root = places::repository();
    let page = std::fs::read_to_string(root.join("docs/errors.md")).unwrap();
    let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    let mut texts = Texts::default();
    for source in SOURCES {
        texts.read(&root.join("auth-service/src").join(source));
    }
    assert!(texts.0.len() > 60, "{:?}", texts.0);
    let missing: Vec<_> =
        texts.0.iter().filter(|text| !lines.iter().any(|line| is_said(line, text))).collect();
    assert!(missing.is_empty(), "docs/errors.md lacks: {missing:#?}");
    // The texts of pages are in other parts of the source, some of them in macros and templates.
    let mut all = Texts::default();
    all.read(&root.join("auth-service/src"));
    let written = written(&root.join("auth-service/src")) + &written(&root.join("auth-service/templates"));
    let is_written =
        |line: &str| line.split(|c: char| c.is_ascii_uppercase()).all(|part| written.contains(part));
    let stale: Vec<_> = lines
        .iter()
        .filter(|line| !all.0.iter().any(|text| is_said(line, text)) && !is_written(line))
        .collect();
    assert!(stale.is_empty(), "docs/errors.md contains texts that are not in the source: {stale:#?}");
}
