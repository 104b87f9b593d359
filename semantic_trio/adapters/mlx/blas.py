"""(temporary, to be replaced by the catalogue's author)"""
import ctypes, glob
def load_openblas():
    for p in glob.glob("/usr/lib/*/openblas-pthread/libblas.so.3"):
        ctypes.CDLL(p, mode=ctypes.RTLD_GLOBAL)
