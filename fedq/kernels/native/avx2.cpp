#define FEDQ_ISA avx2
#include "all.hpp"
