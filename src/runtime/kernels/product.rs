//! Products of matrices on the calling thread.

/// A matrix that lies in a slice; its element (i, j) at `i * apart[0] + j * apart[1]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) apart: [usize; 2],
}

impl Matrix<'_> {
    fn check(&self) {
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.apart[0] + (self.columns - 1) * self.apart[1];
            assert!(last < self.values.len(), "a matrix beyond its {} values", self.values.len());
        }
    }
}

/// `to += a b` (or `to = a b`, unless `adds`), with `to` row after row.
pub(super) fn multiply(to: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, adds: bool) {
    a.check();
    b.check();
    assert_eq!(a.columns, b.rows);
    assert_eq!(to.len(), a.rows * b.columns);
    let [[a_rows, a_columns], [b_rows, b_columns]] = [a.apart, b.apart].map(|apart| apart.map(|n| n as isize));
    let gemm = gemm_f32::gemm::f32::get_gemm_fn();
    // SAFETY: the elements that the strides reach lie in the slices, which was just checked; `to` overlaps none of them.
    unsafe {
        gemm(
            a.rows,
            b.columns,
            a.columns,
            to.as_mut_ptr(),
            1,
            b.columns as isize,
            adds,
            a.values.as_ptr(),
            a_columns,
            a_rows,
            b.values.as_ptr(),
            b_columns,
            b_rows,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 0, 2), (17, 33, 9), (64, 130, 48)] {
            let value = |i: usize| (i * 37 % 19) as f32 - 9.0;
            let (a, b): (Vec<_>, Vec<_>) =
                ((0..rows * inner).map(value).collect(), (0..inner * columns).map(value).collect());
            let sum = |i: usize, j: usize| (0..inner).map(|k| a[i * inner + k] * b[j * inner + k]).sum::<f32>();
            let expected: Vec<_> = (0..rows * columns).map(|at| sum(at / columns, at % columns)).collect();
            let a = Matrix { values: &a, rows, columns: inner, apart: [inner, 1] };
            let b = Matrix { values: &b, rows: inner, columns, apart: [1, inner] };
            let mut to = vec![1.0; rows * columns];
            multiply(&mut to, a, b, true);
            assert!(to.iter().zip(&expected).all(|(to, sum)| *to == sum + 1.0));
            multiply(&mut to, a, b, false);
            assert_eq!(to, expected);
        }
    }
}
