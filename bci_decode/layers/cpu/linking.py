"""How numba builds a kernel: with its own copies of the functions that it calls.

numba compiles a called function alone, and again as a part of each kernel that calls it. LLVM may
order the additions of the two copies in different ways. Under one weak symbol, the first copy that
a process has seen serves all kernels. So a process that compiles would run other code than one that
loads the kernel from numba's cache. As internal symbols, the kernel's copies serve it everywhere.
"""

from __future__ import annotations

from llvmlite.binding import Linkage
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _OwnCode(JITCodeLibrary):
    def _finalize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr:
                function.linkage = "internal"  # after LLVM's passes, which it would change
        super()._finalize_final_module()


class KernelCompiler(Compiler):
    """The `pipeline_class` of a kernel; numba runs it only where its cache lacks the kernel."""

    def define_pipelines(self) -> list:
        name = self.state.func_id.func_qualname
        self.state.library = _OwnCode(self.state.targetctx.codegen(), name)
        self.state.library.enable_object_caching()
        return super().define_pipelines()
