/* A PID 1 that says by the debug exit port that it has begun. Its first instructions. */
	.globl _start
_start:
	movl $173, %eax		/* ioperm(0x501, 1, 1) */
	movl $0x501, %edi
	movl $1, %esi
	movl $1, %edx
	syscall
	movw $0x501, %dx
	movb $0x10, %al
	outb %al, %dx
1:	movl $34, %eax		/* pause() */
	syscall
	jmp 1b
