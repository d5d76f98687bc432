"""Reads labelled texts from files: TSV, CSV, JSON lines, Parquet and fastText's format, through Arrow.

sources    which files, and of which format
blocks     a text file's bytes in blocks of whole records
readers    a block of a text file to texts and labels; jsonlines and parquet are two formats' own
records    where records begin and end
columns    which columns hold texts, labels and weights, and which rows are good
weights    what stands in a column of weights, as numbers
rejected   the rows that could not be used
reading    all of it together, in threads
"""

from job.dataset.reading import DataSpec, Rows, Summary, TooManyRejected, check_share, read
from job.dataset.rejected import RejectedRow, RejectedRows
from job.dataset.sources import DataFormat, find_sources

__all__ = [
    "DataFormat",
    "DataSpec",
    "RejectedRow",
    "RejectedRows",
    "Rows",
    "Summary",
    "TooManyRejected",
    "check_share",
    "find_sources",
    "read",
]
