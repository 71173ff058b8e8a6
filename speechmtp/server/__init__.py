"""The live server: a front that speaks to clients, and engines that listen."""
