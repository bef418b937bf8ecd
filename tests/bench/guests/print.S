/* A PID 1 that prints a line on the console, and resets the machine. */
	.globl _start
_start:
	movl $1, %eax		/* write(1, text, length) */
	movl $1, %edi
	leaq text(%rip), %rsi
	movl $length, %edx
	syscall
	movl $169, %eax		/* reboot(LINUX_REBOOT_MAGIC1, MAGIC2, CMD_RESTART) */
	movl $0xfee1dead, %edi
	movl $672274793, %esi
	movl $0x01234567, %edx
	syscall
1:	movl $34, %eax		/* pause() */
	syscall
	jmp 1b
text:	.ascii "first byte\n"
	.set length, . - text
