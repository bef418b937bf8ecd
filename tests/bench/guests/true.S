/* The least workload: says by one byte that it has begun, and ends well. */
	.globl _start
_start:
	movl $1, %eax		/* write(1, "x", 1) */
	movl $1, %edi
	leaq text(%rip), %rsi
	movl $1, %edx
	syscall
	movl $60, %eax		/* exit(0) */
	xorl %edi, %edi
	syscall
text:	.ascii "x"
