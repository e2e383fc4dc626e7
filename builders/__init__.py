"""Build-time side of river-trt: needs the `build` extra, never imported by the runtime."""
