//! Repairs the checksums of tar headers. Otherwise the reader would reject nearly every mutated header before any other
//! check.

const BLOCK: usize = 512;
const SUM: std::ops::Range<usize> = 148..156;

/// Returns the bytes with a correct checksum in each block that looks like a header.
pub(crate) fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes
        .chunks_exact_mut(BLOCK)
        .filter(|block| block[257..].starts_with(b"ustar"))
    {
        block[SUM].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
