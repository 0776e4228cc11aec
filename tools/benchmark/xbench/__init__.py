"""What the benchmark scripts share. The scripts beside this folder are thin.

``common`` stamps and writes results, ``model`` builds what is measured, ``measure``
compares and times, ``memory`` measures peaks, ``runs`` trains and tests through the
stock tools, ``summary`` averages over seeds, ``render`` makes tables, ``document``
puts them into marked regions.
"""
