//! The files that travel.

use std::fs;
use std::fs::File;
use std::io::BufWriter;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A source of bytes that no chunking and no compression can save on; the same ones in each run.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One number (xorshift64*).
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// Writes one file of this many bytes.
pub fn large(path: &Path, size: u64) {
    let mut noise = Noise::new(size);
    let mut file = File::create(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        noise.fill(&mut buffer[..now]);
        file.write_all(&buffer[..now]).unwrap();
        left -= now as u64;
    }
}

/// Writes this many files of `size` bytes, a hundred in a folder.
pub fn small(folder: &Path, count: u64, size: usize) {
    let mut noise = Noise::new(count);
    let mut bytes = vec![0; size];
    for number in 0..count {
        let folder = folder.join(format!("folder-{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        noise.fill(&mut bytes);
        fs::write(folder.join(format!("file-{number:06}.dat")), &bytes).unwrap();
    }
}

/// Makes another one of the byte at a place.
pub fn change_byte(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// Makes other ones of this many bytes, all over the file.
pub fn change_scattered(path: &Path, count: u64) {
    let size = fs::metadata(path).unwrap().len();
    let mut noise = Noise::new(count);
    for number in 0..count {
        let share = size / count;
        change_byte(path, number * share + noise.next() % share);
    }
}

/// Puts bytes before the first one.
pub fn insert_at_front(path: &Path, count: usize) {
    let mut bytes = vec![0; count];
    Noise::new(7).fill(&mut bytes);
    let aside = path.with_extension("longer");
    let mut longer = File::create(&aside).unwrap();
    longer.write_all(&bytes).unwrap();
    std::io::copy(&mut File::open(path).unwrap(), &mut longer).unwrap();
    // The same file as before with other bytes, as an editor that keeps the inode writes it.
    let mut file = File::options().write(true).open(path).unwrap();
    longer = File::open(&aside).unwrap();
    longer.seek(SeekFrom::Start(0)).unwrap();
    std::io::copy(&mut longer, &mut file).unwrap();
    fs::remove_file(&aside).unwrap();
}

/// Whether two files hold the same bytes.
pub fn same(one: &Path, other: &Path) -> bool {
    let (Ok(mut one), Ok(mut other)) = (File::open(one), File::open(other)) else { return false };
    if one.metadata().unwrap().len() != other.metadata().unwrap().len() {
        return false;
    }
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut here).unwrap();
        if count == 0 {
            return true;
        }
        other.read_exact(&mut there[..count]).unwrap();
        if here[..count] != there[..count] {
            return false;
        }
    }
}

/// How many files lie below a folder.
pub fn count(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).map(|entries| entries.map(|e| e.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|path| if path.is_dir() { count(path) } else { 1 }).sum()
}

/// Writes a text file.
pub fn write(path: &Path, text: &str) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.flush().unwrap();
}
