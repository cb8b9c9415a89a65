# Writes OUTPUT with the version and the commit it is built from. Only if they changed, so that nothing is compiled or
# linked again for nothing. Without git, or outside of a checkout of its own (a tarball), the commit is unknown.
# usage: cmake -DSOURCE=… -DVERSION=… -DINPUT=… -DOUTPUT=… -P version.cmake
set(commit unknown)
execute_process(COMMAND git -C ${SOURCE} rev-parse --show-toplevel
  OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
file(REAL_PATH ${SOURCE} source)
if(NOT failed AND top STREQUAL source)
  execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
