//! Calls of the HDF5 library that its Rust binding does not offer, made safe. The library is entered under the
//! binding's lock only.

use std::ffi::{CStr, CString, c_char, c_uint, c_void};

use hdf5::{Datatype, sync::sync};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5t::{H5T_class_t, H5T_norm_t, H5T_order_t, H5T_sign_t, H5T_str_t};
use hdf5_sys::{h5, h5a, h5d, h5e, h5f, h5i, h5l, h5p, h5s, h5t, h5z};

/// Most bytes of an attribute's text that are read.
const LONGEST_TEXT: usize = 1 << 20;

/// The library's account of what just failed.
pub(super) fn failure() -> hdf5::Error {
    sync(|| hdf5::Error::query().unwrap_or_else(|error| error))
}

/// Forgets earlier failures, so that [`failure`] tells of the next call.
fn begin() {
    // SAFETY: takes no pointers.
    unsafe { h5e::H5Eclear2(h5e::H5E_DEFAULT) };
}

fn checked<T: PartialOrd + From<i8>>(call: impl FnOnce() -> T) -> hdf5::Result<T> {
    sync(|| {
        begin();
        let value = call();
        if value < T::from(0) { Err(hdf5::Error::query().unwrap_or_else(|error| error)) } else { Ok(value) }
    })
}

/// The bytes of a file, which may be one in memory.
pub(super) fn image(file: &hdf5::File) -> hdf5::Result<Vec<u8>> {
    file.flush()?;
    // SAFETY: a file that is open; without a buffer, its size is asked for.
    let bytes = checked(|| unsafe { h5f::H5Fget_file_image(file.id(), std::ptr::null_mut(), 0) })?;
    let mut image = Vec::new();
    image.try_reserve_exact(bytes as usize).map_err(|_| hdf5::Error::from("not enough memory"))?;
    image.resize(bytes as usize, 0);
    // SAFETY: the buffer has room for so many bytes.
    checked(|| unsafe { h5f::H5Fget_file_image(file.id(), image.as_mut_ptr().cast(), image.len()) })?;
    Ok(image)
}

fn c_string(text: &[u8]) -> hdf5::Result<CString> {
    CString::new(text).map_err(|_| hdf5::Error::from("a name holds a NUL"))
}

/// An id that is given back when dropped.
pub(super) struct Id(hid_t);

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: an id that this owns.
        sync(|| unsafe { h5i::H5Idec_ref(self.0) });
    }
}

impl Id {
    fn new(open: impl FnOnce() -> hid_t) -> hdf5::Result<Self> {
        checked(open).map(Self)
    }
}

/// What a name in a group stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link {
    Hard,
    /// The path that it leads to.
    Soft(String),
    /// The file that it leads to.
    External(String),
    /// Of a kind that an application defined.
    Custom,
}

/// What `name`, a single name, is in a group; `None` if nothing.
pub(super) fn link(group: &hdf5::Group, name: &str) -> hdf5::Result<Option<Link>> {
    let name = c_string(name.as_bytes())?;
    // SAFETY: the id and the string are alive for the calls; the value's buffer has as many bytes as are asked for.
    unsafe {
        if checked(|| h5l::H5Lexists(group.id(), name.as_ptr(), h5p::H5P_DEFAULT))? == 0 {
            return Ok(None);
        }
        let mut info = h5l::H5L_info2_t::default();
        checked(|| h5l::H5Lget_info2(group.id(), name.as_ptr(), &raw mut info, h5p::H5P_DEFAULT))?;
        // By number: a kind that the enum does not have would be no value of it.
        let kind = (&raw const info.type_).cast::<i32>().read();
        if kind == h5l::H5L_TYPE_HARD as i32 {
            return Ok(Some(Link::Hard));
        }
        if kind != h5l::H5L_TYPE_SOFT as i32 && kind != h5l::H5L_TYPE_EXTERNAL as i32 {
            return Ok(Some(Link::Custom));
        }
        let bytes = (*info.u.val_size()).min(LONGEST_TEXT);
        let mut value = vec![0u8; bytes];
        checked(|| h5l::H5Lget_val(group.id(), name.as_ptr(), value.as_mut_ptr().cast(), bytes, h5p::H5P_DEFAULT))?;
        if kind == h5l::H5L_TYPE_EXTERNAL as i32 {
            // A byte of version and flags, then the file's name (H5Lexternal.c).
            return Ok(Some(Link::External(until_nul(value.get(1..).unwrap_or_default()))));
        }
        Ok(Some(Link::Soft(until_nul(&value))))
    }
}

fn until_nul(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub(super) fn class(ty: &Datatype) -> H5T_class_t {
    // SAFETY: the id is alive.
    sync(|| unsafe { h5t::H5Tget_class(ty.id()) })
}

/// The element type of an array or enum.
pub(super) fn base(ty: &Datatype) -> hdf5::Result<Datatype> {
    // SAFETY: the id is alive.
    own(|| unsafe { h5t::H5Tget_super(ty.id()) })
}

/// The type behind an id that `open` gives.
fn own(open: impl FnOnce() -> hid_t) -> hdf5::Result<Datatype> {
    let id = checked(open)?;
    // SAFETY: the library just gave this id to nobody else.
    sync(|| unsafe { hdf5::from_id(id) })
}

/// The dimensions of an array type.
pub(super) fn dimensions(ty: &Datatype) -> hdf5::Result<Vec<u64>> {
    // SAFETY: the id is alive, and the library writes as many dimensions as it said there are.
    unsafe {
        let rank = checked(|| h5t::H5Tget_array_ndims(ty.id()))? as usize;
        let mut dimensions = vec![0; rank];
        checked(|| h5t::H5Tget_array_dims2(ty.id(), dimensions.as_mut_ptr()))?;
        Ok(dimensions)
    }
}

/// What all integers and floats have.
pub(super) struct Bits {
    pub(super) bytes: usize,
    pub(super) little_endian: bool,
    /// Whether all of its bits count.
    pub(super) full: bool,
}

pub(super) fn bits(ty: &Datatype) -> Bits {
    // SAFETY: the id is alive.
    sync(|| unsafe {
        let bytes = h5t::H5Tget_size(ty.id());
        Bits {
            bytes,
            little_endian: h5t::H5Tget_order(ty.id()) == H5T_order_t::H5T_ORDER_LE,
            full: h5t::H5Tget_precision(ty.id()) == 8 * bytes && h5t::H5Tget_offset(ty.id()) == 0,
        }
    })
}

/// Whether an integer has a sign (two's complement); `None` for other schemes.
pub(super) fn is_signed(ty: &Datatype) -> Option<bool> {
    // SAFETY: the id is alive.
    match sync(|| unsafe { h5t::H5Tget_sign(ty.id()) }) {
        H5T_sign_t::H5T_SGN_NONE => Some(false),
        H5T_sign_t::H5T_SGN_2 => Some(true),
        _ => None,
    }
}

/// A float's (sign position, exponent position, exponent bits, mantissa position, mantissa bits, exponent bias), where
/// its mantissa has an implied leading bit.
pub(super) fn float_fields(ty: &Datatype) -> Option<[usize; 6]> {
    let mut fields = [0; 6];
    let [sign, exponent, exponent_bits, mantissa, mantissa_bits, bias] = &mut fields;
    // SAFETY: the id and all pointers are alive for the calls.
    let read = sync(|| unsafe {
        *bias = h5t::H5Tget_ebias(ty.id());
        h5t::H5Tget_norm(ty.id()) == H5T_norm_t::H5T_NORM_IMPLIED
            && h5t::H5Tget_fields(ty.id(), sign, exponent, exponent_bits, mantissa, mantissa_bits) >= 0
    });
    read.then_some(fields)
}

/// A field of a compound type.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) offset: usize,
    pub(super) ty: Datatype,
}

pub(super) fn members(ty: &Datatype) -> hdf5::Result<Vec<Member>> {
    // SAFETY: the id is alive; a name is the library's to free.
    unsafe {
        let count = checked(|| h5t::H5Tget_nmembers(ty.id()))? as c_uint;
        let member = |i| {
            let name = sync(|| {
                let text = h5t::H5Tget_member_name(ty.id(), i);
                (!text.is_null()).then(|| {
                    let name = CStr::from_ptr(text).to_string_lossy().into_owned();
                    h5::H5free_memory(text.cast());
                    name
                })
            });
            let offset = sync(|| h5t::H5Tget_member_offset(ty.id(), i));
            let ty = own(|| h5t::H5Tget_member_type(ty.id(), i))?;
            Ok(Member { name: name.ok_or_else(failure)?, offset, ty })
        };
        (0..count).map(member).collect()
    }
}

pub(super) fn is_variable_text(ty: &Datatype) -> hdf5::Result<bool> {
    // SAFETY: the id is alive.
    checked(|| unsafe { h5t::H5Tis_variable_str(ty.id()) }).map(|is| is > 0)
}

/// A filter of a dataset, as its header has it.
pub(super) struct StoredFilter {
    pub(super) id: i32,
    pub(super) name: String,
    pub(super) values: Vec<u32>,
    /// Whether the library can undo it.
    pub(super) available: bool,
}

/// How a dataset's header says that its rows are stored.
pub(super) struct Creation {
    pub(super) layout: Option<Layout>,
    /// Whether the rows lie in files of their own.
    pub(super) external: bool,
    /// Options of chunks, of which the partial ones may not be filtered.
    pub(super) chunk_options: u32,
    pub(super) filters: Vec<StoredFilter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Compact,
    Contiguous,
    Chunked,
    Virtual,
}

pub(super) fn creation(dataset: &hdf5::Dataset) -> hdf5::Result<Creation> {
    // SAFETY: all ids are alive for the calls; the arrays are as long as the library is told.
    unsafe {
        let list = Id::new(|| h5d::H5Dget_create_plist(dataset.id()))?;
        let layout = match checked(|| h5p::H5Pget_layout(list.0) as i32)? {
            0 => Some(Layout::Compact),
            1 => Some(Layout::Contiguous),
            2 => Some(Layout::Chunked),
            3 => Some(Layout::Virtual),
            _ => None,
        };
        let external = checked(|| h5p::H5Pget_external_count(list.0))? > 0;
        let mut chunk_options = 0;
        if layout == Some(Layout::Chunked) {
            checked(|| h5p::H5Pget_chunk_opts(list.0, &raw mut chunk_options))?;
        }
        let count = checked(|| h5p::H5Pget_nfilters(list.0))? as c_uint;
        let filters = (0..count).map(|i| filter(&list, i)).collect::<hdf5::Result<_>>()?;
        Ok(Creation { layout, external, chunk_options, filters })
    }
}

/// # Safety
/// `list` is a dataset's creation list with more than `i` filters.
unsafe fn filter(list: &Id, i: c_uint) -> hdf5::Result<StoredFilter> {
    let (mut flags, mut values, mut length, mut config) = (0, vec![0u32; 64], 64usize, 0);
    let mut name = [0 as c_char; 256];
    // SAFETY: the arrays are as long as the library is told.
    let id = checked(|| unsafe {
        h5p::H5Pget_filter2(
            list.0,
            i,
            &raw mut flags,
            &raw mut length,
            values.as_mut_ptr(),
            name.len() - 1,
            name.as_mut_ptr(),
            &raw mut config,
        )
    })?;
    values.truncate(length);
    // SAFETY: the library wrote at most all but the last byte, which is 0.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: takes no pointers. What cannot be told counts as not available.
    let available = sync(|| unsafe { h5z::H5Zfilter_avail(id) }) > 0;
    Ok(StoredFilter { id, name, values, available })
}

/// A memory type: a compound of `fields` (name, offset, element type), `bytes` long.
pub(super) fn compound(bytes: usize, fields: &[(&str, usize, Datatype)]) -> hdf5::Result<Datatype> {
    // SAFETY: the ids and names are alive for the calls.
    unsafe {
        let compound = own(|| h5t::H5Tcreate(H5T_class_t::H5T_COMPOUND, bytes))?;
        for (name, offset, ty) in fields {
            let name = c_string(name.as_bytes())?;
            checked(|| h5t::H5Tinsert(compound.id(), name.as_ptr(), *offset, ty.id()))?;
        }
        Ok(compound)
    }
}

/// A memory type: `count` elements of `ty`.
pub(super) fn array(ty: &Datatype, count: usize) -> hdf5::Result<Datatype> {
    let dimensions = [count as u64];
    // SAFETY: the id and the dimensions are alive for the call.
    own(|| unsafe { h5t::H5Tarray_create2(ty.id(), 1, dimensions.as_ptr()) })
}

/// The attribute of that name; `None` if there is none.
pub(super) fn attribute(of: &hdf5::Location, name: &str) -> hdf5::Result<Option<Attribute>> {
    let name = c_string(name.as_bytes())?;
    // SAFETY: the ids and the name are alive for the calls; each id is owned by nobody else.
    unsafe {
        if checked(|| h5a::H5Aexists(of.id(), name.as_ptr()))? == 0 {
            return Ok(None);
        }
        let id = Id::new(|| h5a::H5Aopen(of.id(), name.as_ptr(), h5p::H5P_DEFAULT))?;
        let ty = own(|| h5a::H5Aget_type(id.0))?;
        let space = Id::new(|| h5a::H5Aget_space(id.0))?;
        let elements = match sync(|| h5s::H5Sget_simple_extent_type(space.0)) {
            h5s::H5S_class_t::H5S_NULL => 0,
            _ => checked(|| h5s::H5Sget_simple_extent_npoints(space.0))? as u64,
        };
        Ok(Some(Attribute { id, space, ty, elements }))
    }
}

pub(super) struct Attribute {
    id: Id,
    space: Id,
    pub(super) ty: Datatype,
    /// None in a null dataspace.
    pub(super) elements: u64,
}

impl Attribute {
    /// The value of an attribute of one number.
    pub(super) fn number(&self) -> hdf5::Result<f64> {
        assert_eq!(self.elements, 1);
        let mut value = f64::NAN;
        // SAFETY: the library writes one float64.
        unsafe { self.read(*h5t::H5T_NATIVE_DOUBLE, (&raw mut value).cast()) }?;
        Ok(value)
    }

    /// The value of an attribute of one integer.
    pub(super) fn integer(&self) -> hdf5::Result<i128> {
        assert_eq!(self.elements, 1);
        if is_signed(&self.ty) == Some(false) {
            let mut value = 0u64;
            // SAFETY: the library writes one uint64.
            unsafe { self.read(*h5t::H5T_NATIVE_UINT64, (&raw mut value).cast()) }?;
            return Ok(value.into());
        }
        let mut value = 0i64;
        // SAFETY: the library writes one int64.
        unsafe { self.read(*h5t::H5T_NATIVE_INT64, (&raw mut value).cast()) }?;
        Ok(value.into())
    }

    /// The name of the value of an attribute of one enum; `None` for a value without.
    pub(super) fn word(&self) -> hdf5::Result<Option<String>> {
        let value = self.raw()?;
        let mut name = [0 as c_char; 256];
        // SAFETY: the value has the bytes of its type, and the library writes at most all but the name's last byte.
        let status = sync(|| unsafe {
            h5t::H5Tenum_nameof(self.ty.id(), value.as_ptr().cast(), name.as_mut_ptr(), name.len() - 1)
        });
        // SAFETY: the last byte is 0.
        Ok((status >= 0).then(|| unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()))
    }

    /// The value of an attribute of one text, without its padding; what is not UTF-8 is replaced.
    pub(super) fn text(&self) -> hdf5::Result<String> {
        let bytes = if is_variable_text(&self.ty)? { self.variable_text()? } else { self.raw()? };
        // SAFETY: the id is alive.
        let padding = sync(|| unsafe { h5t::H5Tget_strpad(self.ty.id()) });
        let kept = match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => &bytes[..end],
            None if padding == H5T_str_t::H5T_STR_SPACEPAD => bytes.trim_ascii_end(),
            None => &bytes,
        };
        Ok(String::from_utf8_lossy(kept).into_owned())
    }

    fn variable_text(&self) -> hdf5::Result<Vec<u8>> {
        assert_eq!(self.elements, 1);
        let mut text: *mut c_char = std::ptr::null_mut();
        // SAFETY: the library writes one pointer to a string that ends with 0, or none, and takes it back.
        unsafe {
            self.read(self.ty.id(), (&raw mut text).cast())?;
            let bytes = if text.is_null() { Vec::new() } else { CStr::from_ptr(text).to_bytes().to_vec() };
            sync(|| h5t::H5Treclaim(self.ty.id(), self.space.0, h5p::H5P_DEFAULT, (&raw mut text).cast()));
            Ok(bytes)
        }
    }

    /// The stored bytes of an attribute of one element of fixed length.
    fn raw(&self) -> hdf5::Result<Vec<u8>> {
        assert_eq!(self.elements, 1);
        let bytes = self.ty.size();
        if bytes > LONGEST_TEXT {
            return Err(format!("{bytes} bytes are more than any label has").into());
        }
        let mut value = vec![0u8; bytes];
        // SAFETY: the library writes one element of the attribute's own type.
        unsafe { self.read(self.ty.id(), value.as_mut_ptr().cast()) }?;
        Ok(value)
    }

    /// # Safety
    /// `to` has room for all elements as `ty`.
    unsafe fn read(&self, ty: hid_t, to: *mut c_void) -> hdf5::Result<()> {
        // SAFETY: the caller's.
        checked(|| unsafe { h5a::H5Aread(self.id.0, ty, to) }).map(|_| ())
    }
}
