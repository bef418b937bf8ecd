/* A workload that says by one byte that it has begun, and waits for a signal. */
	.globl _start
_start:
	movl $1, %eax		/* write(1, "x", 1) */
	movl $1, %edi
	leaq text(%rip), %rsi
	movl $1, %edx
	syscall
1:	movl $34, %eax		/* pause() */
	syscall
	jmp 1b
text:	.ascii "x"
