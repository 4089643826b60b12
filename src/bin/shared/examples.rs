//! The examples in a program's help, for the tests of both programs.

use clap::Parser;

/// Parses every example of every command as the program would; gives how many there are.
pub(super) fn parsed<Args: Parser>() -> usize {
    let mut parsed = 0;
    for command in Args::command().get_subcommands() {
        let examples = command.get_after_help().unwrap_or_else(|| panic!("{command}")).to_string();
        for line in examples.lines().skip(1) {
            // Up to a comment, a pipe or a file; quotes are the shell's.
            let words = line.split_whitespace().take_while(|word| !["#", "|", ">"].contains(word));
            let words: Vec<_> = words.map(|word| word.trim_matches('\'')).collect();
            Args::try_parse_from(&words).map(|_| ()).unwrap_or_else(|error| panic!("{line}: {error}"));
            parsed += 1;
        }
    }
    parsed
}
