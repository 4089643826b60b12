//! Enumerated values, including those that YAML may spell as booleans.

use serde::Deserialize;

/// A word that is none of those expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found `{found}`", expected.join(", "))]
pub struct UnknownWord {
    pub expected: &'static [&'static str],
    pub found: String,
}

/// Declares an enum of YAML words with the word of each variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$of])* #[serde(rename = $word)] $variant),+ }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::config::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    found => Err(crate::config::UnknownWord { expected: &[$($word),+], found: found.to_owned() }),
                }
            }
        }
    };
}
pub(super) use words;

/// The schema of an enumeration that YAML may spell as booleans.
pub(super) fn words_and_truth(schema: &mut schemars::Schema) {
    let words = if schema.as_value().to_string().contains("block") {
        serde_json::json!([true, false, "block"])
    } else {
        serde_json::json!(["zero", true, false])
    };
    *schema = schemars::json_schema!({ "enum": words });
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum BoolOrWord {
    Bool(bool),
    Word(String),
}
