//! Digests that lie inside the bytes they are of, so that a file in any format can say what it should be.
//!
//! The digest is the BLAKE3 of the bytes with [`PLACEHOLDER`] where its 64 digits are.

use memchr::memmem;

/// Stands for the digest while it is computed; the BLAKE3 of `emg-pipeline digest`, so nothing else has these digits.
pub(crate) const PLACEHOLDER: &str = "2657e8f87d53cd34a1a0c8fef2d77d42222e8e00ff8f7e173e23534f2775b703";

/// Puts the digest in the place of [`PLACEHOLDER`].
///
/// # Panics
/// The bytes do not hold it.
pub(crate) fn seal(bytes: &mut [u8]) {
    let at = memmem::find(bytes, PLACEHOLDER.as_bytes()).expect("a placeholder was written");
    let digest = blake3::hash(bytes).to_hex();
    bytes[at..at + PLACEHOLDER.len()].copy_from_slice(digest.as_bytes());
}

/// Whether `digest`, which the bytes hold, is theirs.
pub(crate) fn matches(bytes: &[u8], digest: &str) -> bool {
    let Some(at) = memmem::find(bytes, digest.as_bytes()).filter(|_| digest.len() == PLACEHOLDER.len()) else {
        return false;
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at]).update(PLACEHOLDER.as_bytes()).update(&bytes[at + digest.len()..]);
    hasher.finalize().to_hex().as_str() == digest
}

/// Metadata of an ONNX model that holds its length and digest: `<16 decimal digits>:<64 hexadecimal digits>`.
pub(crate) const MODEL_DIGEST: &str = "digest";

/// The value of [`MODEL_DIGEST`] until [`seal_model`].
pub(crate) fn model_placeholder() -> String {
    format!("{:016}:{PLACEHOLDER}", 0)
}

/// Completes a model whose metadata holds [`model_placeholder`].
pub(crate) fn seal_model(bytes: &mut [u8]) {
    let at = memmem::find(bytes, model_placeholder().as_bytes()).expect("a placeholder was written");
    let length = format!("{:016}", bytes.len());
    bytes[at..at + length.len()].copy_from_slice(length.as_bytes());
    seal(bytes);
}

/// Completes a model that was made of one with a digest.
pub(crate) fn seal_changed_model(bytes: &mut [u8]) {
    let placeholder = model_placeholder();
    if let Some(at) = find_model_digest(bytes).filter(|at| at + placeholder.len() <= bytes.len()) {
        bytes[at..at + placeholder.len()].copy_from_slice(placeholder.as_bytes());
        seal_model(bytes);
    }
}

/// Where the digest in a model's metadata begins.
fn find_model_digest(bytes: &[u8]) -> Option<usize> {
    // StringStringEntryProto of onnx.proto: key = 1, value = 2.
    let value = model_placeholder().len();
    let entry = [&[0x0a, MODEL_DIGEST.len() as u8], MODEL_DIGEST.as_bytes(), &[0x12, value as u8]].concat();
    memmem::find(bytes, &entry).map(|at| at + entry.len())
}

/// What a model's digest says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelState {
    /// As it was written.
    Whole,
    /// Without a digest, or written anew by another program since, with another length.
    Unknown,
    Damaged,
}

/// Compares an ONNX model with the digest in its metadata, before anything else in it is believed.
pub(crate) fn check_model(bytes: &[u8]) -> ModelState {
    let Some(at) = find_model_digest(bytes) else { return ModelState::Unknown };
    let text = bytes.get(at..at + model_placeholder().len()).and_then(|text| std::str::from_utf8(text).ok());
    let Some((length, digest)) = text.and_then(|text| text.split_once(':')) else { return ModelState::Damaged };
    match length.parse::<u64>() {
        Ok(length) if length != bytes.len() as u64 => ModelState::Unknown,
        Ok(_) if matches(bytes, digest) => ModelState::Whole,
        _ => ModelState::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_is_what_it_says() {
        assert_eq!(blake3::hash(b"emg-pipeline digest").to_hex().as_str(), PLACEHOLDER);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let entry = [&[0x0a, 6], &b"digest"[..], &[0x12, 81], model_placeholder().as_bytes()].concat();
        let mut model = [b"some weights", &entry[..], b"more"].concat();
        seal_model(&mut model);
        assert_eq!(check_model(&model), ModelState::Whole);
        let of_entry = 12..12 + entry.len() - 81 + 17;
        for bit in 0..8 * model.len() {
            let mut damaged = model.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Where what says that there is a digest is damaged, nothing else is.
            let expected = check_model(&damaged);
            assert!(expected == ModelState::Damaged || of_entry.contains(&(bit / 8)), "bit {bit}: {expected:?}");
            assert_ne!(expected, ModelState::Whole);
        }
        model.push(0);
        assert_eq!((check_model(&model), check_model(b"else")), (ModelState::Unknown, ModelState::Unknown));
    }
}
