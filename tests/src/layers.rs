//! Finds the imports between the top-level modules of a crate, and compares them with the table in
//! `tests/layers.toml`. Also finds files that import each other, regardless of their modules.
//!
//! A module here is a file at the top of the crate together with the files below it: `src/store.rs` with
//! everything in `src/store/`. Code under `#[cfg(test)]` and the crate roots can import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use syn::visit::Visit;

/// For each top-level module, the modules that it is allowed to import.
pub type Table = BTreeMap<String, BTreeSet<String>>;

/// An import from one top-level module in another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Path of the file below `src`.
    pub file: PathBuf,
    /// The top-level module that the file belongs to.
    pub from: String,
    /// The imported top-level module, or another item of the crate root.
    pub to: String,
}

/// Compares a crate with its table. Returns a sentence for each difference.
pub fn breaches(src: &Path, table: &Table) -> Result<Vec<String>> {
    let modules = modules(src)?;
    let mut found: Vec<String> = Vec::new();
    for module in modules.difference(&table.keys().cloned().collect()) {
        found.push(format!(
            "The module `{module}` is missing from the table: add it with the modules that it may import."
        ));
    }
    for (module, below) in table {
        if !modules.contains(module) {
            found
                .push(format!("The table has the module `{module}`, which does not exist: remove its line."));
        }
        for other in below.iter().filter(|other| !table.contains_key(*other)) {
            found.push(format!("The table lets `{module}` import `{other}`, which is not in the table."));
        }
    }
    if let Some(circle) = circle(table) {
        found.push(format!("The table contains a cycle: {}.", circle.join(" → ")));
    }
    for Import { file, from, to } in imports(src, &modules)? {
        let Some(allowed) = table.get(&from) else { continue };
        if !allowed.contains(&to) {
            let what = if modules.contains(&to) { "" } else { " of the crate root" };
            found.push(format!(
                "{} imports `crate::{to}`{what}, which the table does not let `{from}` do.",
                file.display()
            ));
        }
    }
    Ok(found)
}

/// The first cycle in the table, as a path from a module back to itself.
pub fn circle(table: &Table) -> Option<Vec<String>> {
    fn walk(table: &Table, module: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let seen = path.iter().any(|earlier| earlier == module);
        path.push(module.to_owned());
        if seen {
            return true;
        }
        if done.insert(module.to_owned())
            && table.get(module).into_iter().flatten().any(|next| walk(table, next, path, done))
        {
            return true;
        }
        path.pop();
        false
    }
    let mut done = BTreeSet::new();
    table.keys().find_map(|module| {
        let mut path = Vec::new();
        walk(table, module, &mut path, &mut done).then(|| {
            let last = path[path.len() - 1].clone();
            path.into_iter().skip_while(|module| *module != last).collect()
        })
    })
}

/// The import cycles of a crate: files that cannot be understood one at a time, because each of them imports the
/// others, perhaps indirectly. Each list has at least two files and is sorted.
///
/// A file and the files below it are one unit in this respect: `store.rs` can use what `store/redis.rs` provides
/// without a path that starts at the crate root, and such uses are not counted.
pub fn circles_of_files(src: &Path) -> Result<Vec<Vec<String>>> {
    let parsed = parsed(src, &modules(src)?)?;
    let files: BTreeMap<&[String], &Path> =
        parsed.iter().map(|file| (file.module.as_slice(), file.path.as_path())).collect();
    let imported = |file: &Parsed| -> BTreeSet<&Path> {
        let of =
            |path: &Vec<String>| (1..=path.len()).rev().find_map(|end| files.get_key_value(&path[..end]));
        let others = file.named.iter().filter_map(of).filter(|(module, _)| !module.starts_with(&file.module));
        others.map(|(_, path)| *path).collect()
    };
    let imports: Imports<'_> = parsed.iter().map(|file| (file.path.as_path(), imported(file))).collect();
    let reached: Imports<'_> = imports.keys().map(|file| (*file, reached_from(file, &imports))).collect();
    let circle = |file: &Path| -> Vec<String> {
        let members = reached[file].iter().filter(|other| reached[*other].contains(file));
        members.map(|member| member.display().to_string()).collect()
    };
    let circles: BTreeSet<Vec<String>> = reached.keys().map(|file| circle(file)).collect();
    Ok(circles.into_iter().filter(|circle| circle.len() > 1).collect())
}

/// For each file, the files that it imports.
type Imports<'a> = BTreeMap<&'a Path, BTreeSet<&'a Path>>;

/// The files that a file imports, directly or through others.
fn reached_from<'a>(file: &Path, imports: &Imports<'a>) -> BTreeSet<&'a Path> {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&Path> = imports[file].iter().copied().collect();
    while let Some(file) = waiting.pop() {
        if let Some((file, imported)) = imports.get_key_value(file)
            && seen.insert(*file)
        {
            waiting.extend(imported);
        }
    }
    seen
}

/// The top-level modules of a crate.
fn modules(src: &Path) -> Result<BTreeSet<String>> {
    let modules = rust_files(src)?.into_iter().map(|file| module_path(&file)).filter(|path| !path.is_empty());
    Ok(modules.map(|mut path| path.remove(0)).collect())
}

/// A file of a crate, without its test code.
struct Parsed {
    /// The path of the file below `src`.
    path: PathBuf,
    /// The path of its module.
    module: Vec<String>,
    /// The paths of other modules and items of the crate that the file names, from the crate root.
    named: BTreeSet<Vec<String>>,
}

/// Parses all files of a crate except for its roots and its test modules.
fn parsed(src: &Path, modules: &BTreeSet<String>) -> Result<Vec<Parsed>> {
    let crate_dir = src.parent().and_then(Path::file_name).context("src is in a crate")?;
    let crate_name = crate_dir.to_string_lossy().replace('-', "_");
    let mut all = Vec::new();
    for path in rust_files(src)? {
        let module = module_path(&path);
        if module.is_empty() || module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        let text = fs::read_to_string(src.join(&path))
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let named = names_in(&text, &module, modules, &crate_name)
            .with_context(|| format!("{} does not parse", path.display()))?;
        all.push(Parsed { path, module, named });
    }
    Ok(all)
}

/// All imports between top-level modules, sorted.
fn imports(src: &Path, modules: &BTreeSet<String>) -> Result<BTreeSet<Import>> {
    let mut all = BTreeSet::new();
    for Parsed { path, module, named } in parsed(src, modules)? {
        let Some(from) = module.first() else { continue };
        let others = named.iter().filter_map(|path| path.first()).filter(|to| *to != from);
        all.extend(others.map(|to| Import { file: path.clone(), from: from.clone(), to: to.clone() }));
    }
    Ok(all)
}

/// The paths from the crate root that occur in the code of this module.
fn names_in(
    text: &str,
    module: &[String],
    modules: &BTreeSet<String>,
    crate_name: &str,
) -> Result<BTreeSet<Vec<String>>> {
    let file = syn::parse_file(text)?;
    let mut scan = Scan { module: module.to_vec(), modules, crate_name, named: BTreeSet::new() };
    scan.visit_file(&file);
    Ok(scan.named)
}

struct Scan<'a> {
    module: Vec<String>,
    modules: &'a BTreeSet<String>,
    /// The name under which a module of the binary refers to the library.
    crate_name: &'a str,
    named: BTreeSet<Vec<String>>,
}

impl Scan<'_> {
    /// Records a path such as `crate::store::Trait` or `super::super::store`, as a path from the crate root.
    fn note(&mut self, path: &[String]) {
        if let Some(absolute) = self.absolute(path) {
            self.named.insert(absolute);
        }
    }

    /// A path from the crate root. Returns `None` if the path does not start at this crate, its root or a module
    /// above.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut absolute = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            Some(name) if name == self.crate_name => Vec::new(),
            _ => return None,
        };
        for (at, segment) in path.iter().enumerate() {
            match segment.as_str() {
                "crate" | "self" => {}
                name if at == 0 && name == self.crate_name => {}
                "super" => {
                    absolute.pop();
                }
                name => absolute.push(name.to_owned()),
            }
        }
        (!absolute.is_empty()).then_some(absolute)
    }

    fn note_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.note(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.note(&with(&"*")),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Scan<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if let Some((_, items)) = &item.content {
            self.module.push(item.ident.to_string());
            for item in items {
                self.visit_item(item);
            }
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // `pub(crate)` is parsed as a path of one segment, but does not refer to a module.
        if segments.len() > 1 {
            self.note(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    /// The arguments of a macro call are only tokens, so their text is searched for paths.
    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        let tokens = mac.tokens.to_string().replace(" ::", "::").replace(":: ", "::");
        for path in tokens.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
            let path: Vec<String> = path.split("::").map(str::to_owned).collect();
            let absolute = self.absolute(&path).filter(|_| path.len() > 1);
            self.named.extend(absolute.filter(|path| self.modules.contains(&path[0])));
        }
        syn::visit::visit_macro(self, mac);
    }
}

fn is_test_only(item: &syn::Item) -> bool {
    let (syn::Item::Mod(syn::ItemMod { attrs, .. })
    | syn::Item::Use(syn::ItemUse { attrs, .. })
    | syn::Item::Fn(syn::ItemFn { attrs, .. })
    | syn::Item::Impl(syn::ItemImpl { attrs, .. })) = item
    else {
        return false;
    };
    attrs.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The module path of a file: `store/embedded.rs` is `store::embedded`. It is empty for `lib.rs`, `main.rs`
/// and `bin/`, which are crate roots.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(path.first().map(String::as_str), Some("lib" | "main" | "bin")) {
        path.clear();
    }
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// The paths of all Rust files, relative to `src` and sorted.
fn rust_files(src: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![src.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("{} cannot be read", directory.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(src)?.to_path_buf());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[(&str, &[&str])]) -> Table {
        lines
            .iter()
            .map(|(module, below)| ((*module).into(), below.iter().map(|r| (*r).into()).collect()))
            .collect()
    }

    fn named(text: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
        let modules = ["store", "domain", "pages", "keys"].map(str::to_owned).into();
        let paths = names_in(text, &module, &modules, "gate").unwrap();
        let first: BTreeSet<String> = paths.into_iter().map(|mut path| path.remove(0)).collect();
        first.into_iter().collect()
    }

    #[test]
    fn every_way_to_name_a_room_is_seen() {
        assert_eq!(named("use crate::{store::Store, domain::{A, B as C}};", &["oauth"]), ["domain", "store"]);
        assert_eq!(named("fn f() { crate::store::get() }", &["oauth"]), ["store"]);
        assert_eq!(named("fn f(a: &crate::keys::Key) {}", &["oauth"]), ["keys"]);
        assert_eq!(named("use super::super::store::Store;", &["oauth", "token"]), ["store"]);
        assert_eq!(named("mod inner { use super::super::pages; }", &["oauth"]), ["pages"]);
        assert_eq!(named("fn f() { info!(x = crate::keys::ID) }", &["oauth"]), ["keys"]);
        assert_eq!(named("fn f() { info!(x = super::ID) }", &["oauth", "token"]), [""; 0]);
        assert_eq!(named("fn f() { info!(x = super::super::keys::ID) }", &["oauth", "token"]), ["keys"]);
        assert_eq!(named("use gate::{keys, store};", &["cli"]), ["keys", "store"]);
        assert_eq!(named("use crate::VERSION;", &["oauth"]), ["VERSION"]);
        assert_eq!(named("pub(crate) fn f() { self::g(); super::h() }", &["oauth", "token"]), ["oauth"]);
    }

    #[test]
    fn test_code_is_free() {
        assert!(named("#[cfg(test)] mod tests { use crate::store::Fake; }", &["oauth"]).is_empty());
        assert!(named("#[cfg(test)] use crate::store::Fake;", &["oauth"]).is_empty());
    }

    #[test]
    fn a_circle_is_found_and_a_diamond_is_none() {
        let diamond = table(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]);
        assert_eq!(circle(&diamond), None);
        let round = table(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(circle(&round).unwrap(), ["b", "c", "b"]);
    }

    #[test]
    fn a_circle_of_files_is_found_through_every_kind_of_path() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("lib.rs", "mod store;");
        write("store.rs", "mod cells; mod row; mod turns; use cells::Cells; pub trait Store {}");
        write("store/cells.rs", "use super::row::Row; use super::Store; pub struct Cells;");
        write("store/row.rs", "fn f() { println!(\"{}\", super::turns::now()) }");
        write(
            "store/turns.rs",
            "pub fn now() -> u8 { 0 } #[cfg(test)] mod tests { use super::super::cells::Cells; }",
        );
        assert!(circles_of_files(dir.path()).unwrap().is_empty());
        write("store/turns.rs", "pub fn now(_: &crate::store::cells::Cells) {}");
        let found = circles_of_files(dir.path()).unwrap();
        assert_eq!(found, [["store/cells.rs", "store/row.rs", "store/turns.rs"]]);
    }

    #[test]
    fn breaches_are_sentences() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        fs::write(dir.path().join("lib.rs"), "pub mod store; use store::redis;").unwrap();
        fs::write(dir.path().join("store/redis.rs"), "use crate::pages::Page;").unwrap();
        fs::write(dir.path().join("pages.rs"), "use crate::store;").unwrap();
        let found = breaches(dir.path(), &table(&[("store", &[]), ("gone", &["store"])])).unwrap();
        assert_eq!(
            found,
            [
                "The module `pages` is missing from the table: add it with the modules that it may import.",
                "The table has the module `gone`, which does not exist: remove its line.",
                "store/redis.rs imports `crate::pages`, which the table does not let `store` do.",
            ]
        );
    }
}
