# SPDX-License-Identifier: Apache-2.0
# PID 1 of a measured boot: its first instruction is where counting ends, and its
# address (set by the linker, see ../measure) is one that nothing else runs at.
	.globl _start
_start:
	jmp _start
	.section .note.GNU-stack,"",@progbits
