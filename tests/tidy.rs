//! House rules that the compiler does not check, read from the source as tokens.
//!
//! The table of rooms is the one in ARCHITECTURE.md: there is no second copy to fall behind. A breach is reported as
//! `file:line: what`, all of them at once. Where a rule turns out wrong, change the table or the list here, with the reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Files (and folders of the same name) of `src/` that put the program together: they may import everything, and nothing may import them.
const TOP: [&str; 7] = ["lib", "main", "cli", "server", "demo", "signals", "fuzz"];

/// Longest source file, in lines. Beyond it a second reader cannot hold the file in the head: split it by role.
const LINES_MAX: usize = 1000;

/// Rooms whose code runs on the workers: no lock of the standard library, no thread-local state.
const WORKER_SIDE: [&str; 10] =
    ["buffer", "runtime", "protocol", "format", "route", "cluster", "filter", "proxy", "snapshot", "worker"];

/// A sequence of tokens that may stand only in some files, whether in code or in tests.
struct Ban {
    /// Identifiers and punctuation as they follow each other, separated by spaces.
    tokens: &'static str,
    /// Where it may stand: prefixes of the path below `src/`.
    only_in: &'static [&'static str],
    /// Whether tests may use it too.
    tests_may: bool,
    reason: &'static str,
}

const BANS: &[Ban] = &[
    ban("Instant :: now", &["base/clock.rs"], "time is read in one place and passed on as `now`"),
    ban("SystemTime :: now", &["base/clock.rs"], "time is read in one place and passed on as `now`"),
    ban("Timestamp :: now", &["base/clock.rs"], "time is read in one place and passed on as `now`"),
    Ban {
        tests_may: true,
        ..ban("env :: var", ENVIRONMENT, "the environment is an input of the command line only")
    },
    Ban {
        tests_may: true,
        ..ban("env :: var_os", ENVIRONMENT, "the environment is an input of the command line only")
    },
    Ban {
        tests_may: true,
        ..ban("env :: vars", ENVIRONMENT, "the environment is an input of the command line only")
    },
    // And when a worker thread has died: nothing that could unwind may run any more.
    ban("process :: exit", &["main.rs", "server/workers.rs"], "exit codes are decided in one place"),
    // The last words of a process whose log queue is full: there is no event to wait for.
    ban(
        "thread :: sleep",
        &["telemetry/log/sink.rs", "server/patience.rs"],
        "wait for an event with a deadline",
    ),
    ban("todo !", &[], "what is not written is not landed"),
    ban("unimplemented !", &[], "what is not written is not landed"),
    ban("dbg !", &[], "the application log is for that"),
    ban("# [ ignore", &[], "a test that cannot run says so; it is not switched off"),
    ban("static mut", &[], "statics below `main` would make two workers share state"),
    ban("io_uring ::", &["runtime/"], "only `runtime` names io_uring"),
    ban("epoll ::", &["runtime/"], "only `runtime` names epoll"),
    ban("rustls ::", &["protocol/tls/", "control/"], "only `protocol/tls` and `control` name rustls"),
    ban("h2 ::", &["protocol/http2/"], "only `protocol/http2` names h2"),
    ban("pb ::", GENERATED_USERS, "only the conversion and the xDS client name the generated messages"),
    ban(":: pb", GENERATED_USERS, "only the conversion and the xDS client name the generated messages"),
];

/// The command line, the operator `%ENVIRONMENT(NAME)%`, which reads once when its format is parsed, and the data source
/// `environment_variable`, which reads once when configuration is converted.
const ENVIRONMENT: &[&str] = &["cli.rs", "cli/", "format/environment.rs", "control/xds/convert/value.rs"];
const GENERATED_USERS: &[&str] =
    &["control/xds/client", "control/xds/convert", "control/xds/pb", "control/xds/mod.rs"];

const fn ban(tokens: &'static str, only_in: &'static [&'static str], reason: &'static str) -> Ban {
    Ban { tokens, only_in, tests_may: false, reason }
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let table = Table::read(&fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md"));
    let mut breaches = Vec::new();
    for file in Source::all() {
        let Some(allowed) = table.allowed(&file) else {
            if !TOP.contains(&file.room()) {
                breaches.push(format!("src/{}: no such room in the table of ARCHITECTURE.md", file.path));
            }
            continue;
        };
        for import in &file.imports {
            let own = import.path.first().is_some_and(|room| *room == file.room());
            if !own && !allowed.iter().any(|prefix| import.path.starts_with(prefix)) {
                let path = import.path.join("::");
                breaches.push(format!(
                    "src/{}:{}: `{}` imports `{path}`",
                    file.path,
                    import.line,
                    file.room()
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn unsafe_stays_in_its_two_rooms() {
    let mut breaches = Vec::new();
    for file in Source::all() {
        if ["buffer", "runtime"].contains(&file.room()) {
            continue;
        }
        for token in file.tokens.iter().filter(|token| token.text == "unsafe" || token.text == "unsafe_code")
        {
            breaches
                .push(format!("src/{}:{}: `unsafe` outside `buffer` and `runtime`", file.path, token.line));
        }
    }
    assert_none(&breaches);
}

#[test]
fn banned_calls_stay_in_their_one_home() {
    let mut breaches = Vec::new();
    for file in Source::all() {
        for ban in BANS {
            if ban.only_in.iter().any(|prefix| file.path.starts_with(prefix)) {
                continue;
            }
            for line in file.find(ban.tokens, ban.tests_may) {
                breaches.push(format!(
                    "src/{}:{line}: `{}`: {}",
                    file.path,
                    ban.tokens.replace(' ', ""),
                    ban.reason
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn workers_take_no_lock_and_keep_no_thread_local() {
    let mut breaches = Vec::new();
    for file in Source::all().into_iter().filter(|file| WORKER_SIDE.contains(&file.room())) {
        for word in ["Mutex", "RwLock", "Condvar", "thread_local"] {
            // An allocator is told nothing but sizes: which thread it is, it has to know by itself. A verifier is shared by all
            // connections, and rustls does not say for which of them it asks; nor does it to a resolver.
            let knows_its_thread =
                ["runtime/allocator.rs", "protocol/tls/resolver.rs", "protocol/tls/verifier.rs"];
            if word == "thread_local" && knows_its_thread.contains(&&*file.path) {
                continue;
            }
            for line in file.find(word, true) {
                breaches.push(format!(
                    "src/{}:{line}: `{word}` in a room whose code runs on the workers",
                    file.path
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut breaches = Vec::new();
    for (path, text) in rust_files(&["src", "tests", "benches", "fuzz", "proto"]) {
        if !text.starts_with("//!") {
            breaches.push(format!("{path}: does not start with `//!`"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX && !is_generated(&text) {
            breaches.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
        }
    }
    assert_none(&breaches);
}

#[test]
fn table_covers_every_room_and_has_no_cycle() {
    let table = Table::read(&fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md"));
    let lib = fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    for module in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        let known = TOP.contains(&module) || table.order.iter().any(|room| room == module);
        assert!(known, "`{module}` has no row in the table");
    }
    for (room, _, allowed) in &table.rows {
        let own = table.order.iter().position(|other| other == room);
        for path in allowed {
            let other = table.order.iter().position(|other| *other == path[0]);
            assert!(
                other.is_some() && other < own,
                "`{room}` may import `{}`, which is not above it",
                path[0]
            );
        }
    }
}

fn assert_none(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// A generated file says so in its first lines, and is exempt from the limit on length.
fn is_generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.contains("@generated"))
}

/// The table of rooms as ARCHITECTURE.md prints it.
struct Table {
    /// Rooms from bottom to top.
    order: Vec<String>,
    /// Room, file stems the row is limited to (none: all others), paths that may be imported.
    rows: Vec<(String, Vec<String>, Vec<Vec<String>>)>,
}

impl Table {
    fn read(text: &str) -> Self {
        let lines = text.lines().skip_while(|line| !line.starts_with("| room | may import |")).skip(2);
        let mut table = Self { order: Vec::new(), rows: Vec::new() };
        for line in lines.take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let mut names = quoted(cells[0]);
            let room = names.remove(0);
            if !table.order.contains(&room) {
                table.order.push(room.clone());
            }
            let allowed =
                quoted(cells[1]).iter().map(|path| path.split("::").map(String::from).collect()).collect();
            table.rows.push((room, names, allowed));
        }
        assert!(table.rows.len() > 10, "the table of rooms was not found in ARCHITECTURE.md");
        table
    }

    /// What `file` may import; none when it belongs to no room.
    fn allowed(&self, file: &Source) -> Option<&Vec<Vec<String>>> {
        let special = self
            .rows
            .iter()
            .find(|(room, files, _)| room == file.room() && files.iter().any(|stem| stem == file.stem()));
        let row = special
            .or_else(|| self.rows.iter().find(|(room, files, _)| room == file.room() && files.is_empty()));
        row.map(|(_, _, allowed)| allowed)
    }
}

/// The texts between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// A token outside comments and literals, and whether it stands in a `#[cfg(test)]` item.
struct Token {
    text: String,
    line: usize,
    in_test: bool,
}

/// A path into the crate, resolved from its root.
struct Import {
    path: Vec<String>,
    line: usize,
}

struct Source {
    /// Below `src/`, with `/`.
    path: String,
    tokens: Vec<Token>,
    imports: Vec<Import>,
}

impl Source {
    fn all() -> Vec<Self> {
        let mut files: Vec<Self> = Vec::new();
        for (path, text) in rust_files(&["src"]) {
            files.push(Self::parse(path.trim_start_matches("src/").to_string(), &text));
        }
        let test_files: Vec<String> = files.iter().flat_map(Self::test_submodules).collect();
        for file in &mut files {
            if test_files.iter().any(|prefix| file.path.starts_with(prefix.as_str())) {
                file.tokens.iter_mut().for_each(|token| token.in_test = true);
            }
        }
        files
    }

    fn parse(path: String, text: &str) -> Self {
        let stream = TokenStream::from_str(text).unwrap_or_else(|error| panic!("src/{path}: {error}"));
        let mut file = Self { path, tokens: Vec::new(), imports: Vec::new() };
        let mut module = file.module();
        file.walk(stream, false, &mut module);
        file
    }

    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn stem(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// The module that the file is, as a path from the root of the crate.
    fn module(&self) -> Vec<String> {
        let mut module: Vec<String> =
            self.path.trim_end_matches(".rs").split('/').map(String::from).collect();
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            module.pop();
        }
        module
    }

    /// Records the tokens and the paths of `stream`; `module` is the one that contains it.
    fn walk(&mut self, stream: TokenStream, in_test: bool, module: &mut Vec<String>) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let (mut at, mut test_item) = (0, false);
        while at < trees.len() {
            if let Some((path, line, used)) = self_path(&trees[at..], module) {
                for leaf in path {
                    self.imports.push(Import { path: leaf, line });
                }
                for tree in &trees[at..at + used] {
                    self.push(tree, in_test || test_item);
                }
                at += used;
                continue;
            }
            match &trees[at] {
                TokenTree::Group(group) => {
                    let name = inline_module(&trees[..at], group.delimiter());
                    let is_attribute = group.delimiter() == Delimiter::Bracket
                        && at.checked_sub(1).is_some_and(|before| trees[before].to_string() == "#");
                    let ends_item = group.delimiter() == Delimiter::Brace;
                    let (open, close) = brackets(group.delimiter());
                    self.push_text(open, group.span_open().start().line, in_test || test_item);
                    module.extend(name.clone());
                    self.walk(group.stream(), in_test || test_item, module);
                    if name.is_some() {
                        module.pop();
                    }
                    self.push_text(close, group.span_close().start().line, in_test || test_item);
                    if is_attribute {
                        test_item |= is_cfg_test(&group.stream().to_string());
                    } else if ends_item {
                        test_item = false;
                    }
                }
                tree => {
                    self.push(tree, in_test || test_item);
                    if matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ';') {
                        test_item = false;
                    }
                }
            }
            at += 1;
        }
    }

    fn push(&mut self, tree: &TokenTree, in_test: bool) {
        match tree {
            TokenTree::Group(group) => {
                for tree in group.stream() {
                    self.push(&tree, in_test);
                }
            }
            TokenTree::Literal(_) => self.push_text("\"\"", tree.span().start().line, in_test),
            _ => self.push_text(&tree.to_string(), tree.span().start().line, in_test),
        }
    }

    fn push_text(&mut self, text: &str, line: usize, in_test: bool) {
        // `::` is two tokens to the lexer and one to the rules.
        if text == ":" && self.tokens.last().is_some_and(|last| last.text == ":" && last.line == line) {
            if let Some(last) = self.tokens.last_mut() {
                last.text = "::".to_string();
            }
            return;
        }
        self.tokens.push(Token { text: text.to_string(), line, in_test });
    }

    /// Lines on which the sequence stands.
    fn find(&self, sequence: &str, tests_may: bool) -> Vec<usize> {
        let wanted: Vec<&str> = sequence.split(' ').collect();
        let windows = self.tokens.windows(wanted.len());
        let hits =
            windows.filter(|window| window.iter().zip(&wanted).all(|(token, wanted)| token.text == *wanted));
        hits.filter(|window| !(tests_may && window[0].in_test)).map(|window| window[0].line).collect()
    }

    /// Paths of the files and folders that `#[cfg(test)] mod name;` declares.
    fn test_submodules(&self) -> Vec<String> {
        let folder = self.module().join("/");
        let declared = self
            .tokens
            .windows(3)
            .filter(|window| window[0].in_test && window[0].text == "mod" && window[2].text == ";");
        declared
            .flat_map(|window| {
                let base = format!("{folder}/{}", window[1].text);
                [format!("{base}.rs"), format!("{base}/")]
            })
            .collect()
    }
}

/// The paths into the crate that start at the first of `trees`, the line, and how many trees they take.
fn self_path(trees: &[TokenTree], module: &[String]) -> Option<(Vec<Vec<String>>, usize, usize)> {
    let TokenTree::Ident(first) = &trees[0] else { return None };
    let line = first.span().start().line;
    let mut base: Vec<String> = match first.to_string().as_str() {
        "crate" => Vec::new(),
        "super" => module[..module.len().saturating_sub(1)].to_vec(),
        _ => return None,
    };
    let mut at = 1;
    while let (true, Some(TokenTree::Ident(next))) = (is_path_separator(trees, at), trees.get(at + 2)) {
        if next != "super" {
            break;
        }
        base.pop();
        at += 3;
    }
    // `pub(crate)`, `pub(super)`: not a path.
    if !is_path_separator(trees, at) {
        return None;
    }
    let (paths, used) = use_tree(&trees[at + 2..], &base);
    Some((paths, line, at + 2 + used))
}

/// Expands a use tree (`a::{b, c::d}`) below `base`; also how many trees it took.
fn use_tree(trees: &[TokenTree], base: &[String]) -> (Vec<Vec<String>>, usize) {
    match trees.first() {
        Some(TokenTree::Ident(name)) => {
            let mut path = base.to_vec();
            path.push(name.to_string());
            let continues = matches!(trees.get(3), Some(TokenTree::Ident(_)))
                || matches!(trees.get(3), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace);
            if is_path_separator(trees, 1) && continues {
                let (paths, used) = use_tree(&trees[3..], &path);
                return (paths, used + 3);
            }
            (vec![path], 1)
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let items = inner.split(|tree| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ','));
            let paths =
                items.filter(|item| !item.is_empty()).flat_map(|item| use_tree(item, base).0).collect();
            (paths, 1)
        }
        _ => (vec![base.to_vec()], 0),
    }
}

fn is_path_separator(trees: &[TokenTree], at: usize) -> bool {
    let colon =
        |tree: Option<&TokenTree>| matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(trees.get(at)) && colon(trees.get(at + 1))
}

/// The name of the inline module whose body follows `before`.
fn inline_module(before: &[TokenTree], delimiter: Delimiter) -> Option<String> {
    match before {
        [.., TokenTree::Ident(keyword), TokenTree::Ident(name)]
            if keyword == "mod" && delimiter == Delimiter::Brace =>
        {
            Some(name.to_string())
        }
        _ => None,
    }
}

fn is_cfg_test(attribute: &str) -> bool {
    let words: Vec<&str> = attribute.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not")
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

/// Path from the package's root and text of every Rust file below the folders that exist.
fn rust_files(folders: &[&str]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut pending: Vec<PathBuf> =
        folders.iter().map(PathBuf::from).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && path.file_name() != Some(Path::new("target").as_os_str()) {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.insert(path.to_string_lossy().into_owned(), text);
            }
        }
    }
    files
}

#[test]
fn tidy_sees_breaches_in_every_spelling() {
    let imports = |path: &str, text: &str| -> Vec<String> {
        let file = Source::parse(path.to_string(), text);
        file.imports.iter().map(|import| import.path.join("::")).collect()
    };
    assert_eq!(imports("a/b.rs", "use crate::{c::D, e::{f, g::H}};"), ["c::D", "e::f", "e::g::H"]);
    assert_eq!(imports("a/b.rs", "pub(crate) fn f() { crate::c::d() }"), ["c::d"]);
    assert_eq!(imports("a/b.rs", "use super::super::c::D;"), ["c::D"]);
    assert_eq!(imports("a/mod.rs", "mod tests { use super::b; use super::super::c; }"), ["a::b", "c"]);
    assert_eq!(imports("a/b.rs", "// crate::c\nconst S: &str = \"crate::d\";"), Vec::<String>::new());
    assert_eq!(imports("a/b.rs", "macro_rules! m { () => { $crate::c::d() } }"), ["c::d"]);

    let lines =
        |text: &str, tests_may| Source::parse("a/b.rs".to_string(), text).find("Instant :: now", tests_may);
    assert_eq!(lines("fn f() {\n std::time::Instant::now(); }", false), [2]);
    assert_eq!(lines("#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }", true), Vec::<usize>::new());
    assert_eq!(lines("#[cfg(test)] mod tests {}\nfn f() { Instant::now(); }", true), [2]);
    let ignored = Source::parse("a/b.rs".to_string(), "#[test]\n#[ignore = \"later\"] fn f() {}");
    assert_eq!(ignored.find("# [ ignore", false), [2]);
}
