"""Fitting: adapters from batches to targets, the CEntIoU model, devices and precision."""
