"""A constant sparse matrix that multiplies on any device, with the same bytes in every run."""

import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor


class SparseRows:
    """A float64 matrix [R C] of short rows; `matrix` is SciPy's.

    On the CPU SciPy multiplies. On CUDA each row is a gather padded to the longest: cuSPARSE may
    add in another order every time.
    """

    def __init__(self, matrix: sparse.csr_matrix, device: torch.device | str = "cpu") -> None:
        self.matrix = matrix
        self.device = torch.device(device)
        if self.device.type == "cpu":
            return
        count = torch.from_numpy(self.matrix.indptr).long().diff()
        row = torch.arange(len(count)).repeat_interleave(count)
        place = torch.arange(len(row)) - torch.from_numpy(self.matrix.indptr).long()[row]
        self._columns = torch.zeros(len(count), int(count.max()), dtype=torch.int64)
        self._columns[row, place] = torch.from_numpy(self.matrix.indices).long()
        self._values = torch.zeros(self._columns.shape, dtype=torch.float64)
        self._values[row, place] = torch.from_numpy(self.matrix.data).double()
        self._columns, self._values = self._columns.to(device), self._values.to(device)

    def to(self, device: torch.device | str) -> "SparseRows":
        """The same on a device."""
        return SparseRows(self.matrix, device)

    def __matmul__(self, values: Float[Tensor, "C *K"]) -> Float[Tensor, "R *K"]:
        if self.device.type == "cpu":
            return torch.from_numpy(self.matrix @ values.numpy())
        weights = self._values[(..., *[None] * (values.dim() - 1))]
        return (weights * values[self._columns]).sum(1)
