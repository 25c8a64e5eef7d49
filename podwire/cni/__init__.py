"""The CNI contract: requests, results, errors and versions (pure), the installer of shim and conflist."""
