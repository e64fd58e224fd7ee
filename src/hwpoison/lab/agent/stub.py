"""The program that every task of a scenario runs: 244 bytes of x86-64 machine code that do as they are told.

It reads a request from its channel, makes that one system call (or copies memory), writes the result
back, and waits again. Such a task has no heap, no libraries and no threads of its own, so nothing
but the scenario touches its memory; it is forked and started in a fraction of the time that Python needs.

A SIGBUS is noted in memory shared with the controller. If it came from the copying instruction, which is
the only one that touches a scenario's memory, the handler moves on behind it: the access is given up,
the mapping stays as it was. Asynchronous signals (BUS_MCEERR_AO) are only noted.

The bytes were made with the GNU assembler from the text beside them. x86-64 only.
"""

from __future__ import annotations

import struct

BASE = 0x400000
CODE_AT = 0x78  # behind the ELF header and the one program header
CHANNEL = 200  # the descriptor of the channel at the start
NOTES = 0x70000000  # where the handler's notes are (layout: remote.py)
NOTE_COUNT = 126
REQUEST_SIZE = 64  # eight words: call, six arguments, descriptor of the child's channel
COPY = -1  # the "call" that copies: to, from, number of bytes; the result is how many were left

CODE = bytes.fromhex(
    # start:                            r12: the channel, r14: the request
    "41bc c8000000"  # mov r12d, 200
    "4881ec 00010000"  # sub rsp, 256
    # next:                             read(channel, request, 64)
    "31c0"  # xor eax, eax
    "4489e7"  # mov edi, r12d
    "4889e6"  # mov rsi, rsp
    "ba 40000000"  # mov edx, 64
    "0f05"  # syscall
    "4883f8 fc"  # cmp rax, -EINTR
    "74 eb"  # je next
    "4883f8 40"  # cmp rax, 64
    "75 60"  # jne end
    "488b0424"  # mov rax, [rsp]
    "488b7c24 08"  # mov rdi, [rsp+8]
    "488b7424 10"  # mov rsi, [rsp+16]
    "488b5424 18"  # mov rdx, [rsp+24]
    "4c8b5424 20"  # mov r10, [rsp+32]
    "4c8b4424 28"  # mov r8, [rsp+40]
    "4c8b4c24 30"  # mov r9, [rsp+48]
    "488b6c24 38"  # mov rbp, [rsp+56]
    "4885c0"  # test rax, rax
    "78 14"  # js copy
    "4889c3"  # mov rbx, rax
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "75 12"  # jnz reply
    "83fb 38"  # cmp ebx, 56            clone(2) that returned 0: this is the child,
    "75 0d"  # jne reply
    "4189ec"  # mov r12d, ebp           which serves a channel of its own
    "eb a5"  # jmp next
    # copy:
    "4889d1"  # mov rcx, rdx
    # fault:
    "f3a4"  # rep movsb
    # after:
    "4889c8"  # mov rax, rcx
    # reply:                            write(channel, result, 8)
    "48890424"  # mov [rsp], rax
    "b8 01000000"  # mov eax, 1
    "4489e7"  # mov edi, r12d
    "4889e6"  # mov rsi, rsp
    "ba 08000000"  # mov edx, 8
    "0f05"  # syscall
    "eb 85"  # jmp next
    # end:                              exit_group(99): nobody is at the other end
    "b8 e7000000"  # mov eax, 231
    "bf 63000000"  # mov edi, 99
    "0f05"  # syscall
    # handler:                          rsi: siginfo, rdx: ucontext
    "b8 ba000000"  # mov eax, 186       gettid
    "0f05"  # syscall
    "4189c0"  # mov r8d, eax
    "b8 01000000"  # mov eax, 1
    "bf 00000070"  # mov edi, NOTES
    "f00fc107"  # lock xadd [rdi], eax  eax: the number of this note
    "83f8 7e"  # cmp eax, NOTE_COUNT
    "73 20"  # jae skip
    "c1e0 05"  # shl eax, 5
    "488d7c07 20"  # lea rdi, [rdi+rax+32]
    "448907"  # mov [rdi], r8d          tid
    "8b4e 08"  # mov ecx, [rsi+8]
    "894f 04"  # mov [rdi+4], ecx       si_code
    "488b4e 10"  # mov rcx, [rsi+16]
    "48894f 08"  # mov [rdi+8], rcx     si_addr
    "0fb74e 18"  # movzx ecx, word [rsi+24]
    "894f 10"  # mov [rdi+16], ecx      si_addr_lsb
    # skip:
    "837e08 05"  # cmp dword [rsi+8], BUS_MCEERR_AO
    "74 15"  # je return
    "4881ba a8000000 e3004000"  # cmp qword [rdx+168], fault    the interrupted rip
    "75 08"  # jne return
    "488382 a8000000 02"  # add qword [rdx+168], after - fault
    # return:
    "c3"  # ret
    # restorer:                         rt_sigreturn
    "b8 0f000000"  # mov eax, 15
    "0f05"  # syscall
)
COPY_AT = BASE + 0xE0  # "copy": what is copied, and to where, is in the registers
FAULT_AT = BASE + 0xE3  # "fault": the one instruction that touches a scenario's memory
HANDLER = BASE + 0x10C
RESTORER = BASE + 0x165


def executable() -> bytes:
    """The whole program: a static ELF file with one segment, read-only and executable."""
    size = CODE_AT + len(CODE)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, BASE + CODE_AT, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return header + segment + CODE
