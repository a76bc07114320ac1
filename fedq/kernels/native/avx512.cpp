#define FEDQ_ISA avx512
#include "all.hpp"
