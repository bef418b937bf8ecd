/* A guest of three instructions: says by the debug exit port that it has begun, and stops.
   Booted in place of the kernel: what happens before its first instruction is the VMM's doing alone. */
	.globl _start
_start:
	movw $0x501, %dx
	movb $0x10, %al
	outb %al, %dx
1:	hlt
	jmp 1b
