"""The lab: real kernels, booted in a virtual machine, as the second witness.

kernels.py knows which kernels there are and packages.py gets them; prepared.py has what guests start from
(initramfs.py, bundle.py, images.py), made once and kept (keep.py); boot.py runs one command in one guest;
batch.py runs many scenarios in as few boots as it can, with agent/ inside the guest; compare.py says where a
kernel and the model differ; records.py keeps the answers, so that tests need no virtual machine.
"""
