//! ARCHITECTURE.md's table of modules states the imports of the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

/// The workspace's crates, as paths name them.
const CRATES: [(&str, &str); 3] = [
    ("cri_proto", "proto"),
    ("fake_cri", "fake-cri"),
    ("checkpoint_conformance", "conformance"),
];

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The rows of the table: the path of a module, and what its last cell names.
fn table() -> Vec<(String, BTreeSet<String>)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| *line != "| module | contents | uses |")
        .skip(2);
    rows.map_while(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .map(|row| {
            let cells: Vec<_> = row.split(" | ").map(str::trim).collect();
            let uses = cells[2].split(", ").filter(|name| !name.is_empty());
            (cells[0].trim_matches('`').to_owned(), uses.map(str::to_owned).collect())
        })
        .collect()
}

/// The paths that a file's code starts with `crate` or a crate of the workspace. Tests do not count.
#[derive(Default)]
struct Imports {
    /// The modules of the same crate, and other crates of the workspace.
    names: BTreeSet<String>,
}

impl Imports {
    fn path<'a>(&mut self, mut segments: impl Iterator<Item = &'a syn::Ident>) {
        let Some(first) = segments.next().map(ToString::to_string) else {
            return;
        };
        if first == "crate" {
            self.names.extend(segments.next().map(ToString::to_string));
        } else if let Some((_, name)) = CRATES.iter().find(|(krate, _)| *krate == first) {
            self.names.insert((*name).to_owned());
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) if path.ident == "crate" => {
                let mut modules = vec![&*path.tree];
                while let Some(tree) = modules.pop() {
                    match tree {
                        syn::UseTree::Group(group) => modules.extend(&group.items),
                        syn::UseTree::Path(path) => _ = self.names.insert(path.ident.to_string()),
                        syn::UseTree::Name(name) => _ = self.names.insert(name.ident.to_string()),
                        syn::UseTree::Rename(name) => _ = self.names.insert(name.ident.to_string()),
                        syn::UseTree::Glob(_) => panic!("use crate::*"),
                    }
                }
            }
            syn::UseTree::Path(path) => self.path([&path.ident].into_iter()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(tree)),
            syn::UseTree::Name(_) | syn::UseTree::Rename(_) | syn::UseTree::Glob(_) => {}
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    })
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.use_tree(&item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| &segment.ident));
        visit::visit_path(self, path);
    }

    // A macro's input is no syntax tree. Formatting and assertions hold expressions, and paths in them are rare: the
    // tokens `crate`, `::` and a name are looked for.
    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        let tokens = invocation.tokens.to_string();
        let paths = tokens.split("crate :: ").skip(1);
        self.names.extend(paths.map(|rest| {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            rest[..end].to_owned()
        }));
        visit::visit_macro(self, invocation);
    }
}

/// The files of a module: of a directory with everything below it, and `name.rs` beside it. Files of tests do not count.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut paths = vec![path.to_owned(), path.with_extension("rs")];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
            && path.exists()
            && !files.contains(&path)
        {
            files.push(path);
        }
    }
    files
}

/// What the modules use: of their crate, and of the workspace.
fn imports(module: &str) -> BTreeSet<String> {
    let mut imports = Imports::default();
    let files = files(&root().join(module.trim_end_matches('/')));
    assert!(!files.is_empty(), "{module}: no files");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        imports.visit_file(&syntax);
    }
    let mut names = imports.names;
    names.remove(name(module));
    if is_whole_crate(module) {
        names.retain(|name| CRATES.iter().any(|(_, krate)| krate == name));
    }
    names
}

/// The name of a module in a cell: its last part, without the extension.
fn name(module: &str) -> &str {
    let path = Path::new(module.trim_end_matches("/src/").trim_end_matches('/'));
    path.file_stem().and_then(|stem| stem.to_str()).unwrap()
}

/// Whether a row describes a crate, and not one of its modules.
fn is_whole_crate(module: &str) -> bool {
    module.ends_with("/src/")
}

fn krate(module: &str) -> &str {
    module.split('/').next().unwrap()
}

#[test]
fn the_table_of_modules_states_what_each_module_uses() {
    let table = table();
    assert!(table.len() > 20, "{table:?}");
    let wrong: Vec<_> = table
        .iter()
        .map(|(module, uses)| (module, uses, imports(module)))
        .filter(|(_, uses, actual)| *uses != actual)
        .map(|(module, uses, actual)| format!("{module} uses {actual:?}, and ARCHITECTURE.md says {uses:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_module_uses_only_modules_above_it_in_the_table() {
    let table = table();
    for (index, (module, uses)) in table.iter().enumerate() {
        for used in uses {
            let is_above = table[..index]
                .iter()
                .any(|(above, _)| name(above) == used && (krate(above) == krate(module) || used == krate(above)));
            assert!(
                is_above || used == "fake-cri",
                "{module} uses {used}, which is not above it"
            );
        }
    }
}

#[test]
fn every_module_has_a_row() {
    let rows: BTreeSet<_> = table().into_iter().map(|(module, _)| module).collect();
    for krate in ["fake-cri", "conformance"] {
        for entry in fs::read_dir(root().join(krate).join("src")).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            let is_crate_root = ["lib.rs", "main.rs", "bin"].contains(&file.as_str());
            let stem = file.trim_end_matches(".rs");
            let row = [format!("{krate}/src/{stem}/"), format!("{krate}/src/{stem}.rs")];
            assert!(
                is_crate_root || row.iter().any(|row| rows.contains(row)),
                "{krate}/src/{file} has no row"
            );
        }
    }
}
