"""Reads Core ML mlprograms and runs them with torch on any machine.

`converters.mil.runtime.Model` is the door: `Model("chunk1.mlpackage").predict({...})`. Behind it:
`blob` (weights, mapped), `program` and `proto` (the program as plain data), `site`, `plan` and `ops` (the
program as a list of torch calls). Only `proto` needs coremltools, and only its protobuf classes.
"""
